/* Shows each row as a card on a phone, and closes filters. Without this script, lists scroll sideways. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
  // A card has no header row, so each cell shows the name of its column.
  for (const table of document.querySelectorAll("#result_list, .oh-table")) {
    const names = [...table.querySelectorAll("thead th")].map((cell) => cell.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr")) {
      [...row.cells].forEach((cell, index) => { cell.dataset.label = names[index] || ""; });
    }
    table.classList.add("oh-labelled");
  }
});

function closeFilters(except) {
  for (const open of document.querySelectorAll("details.oh-filter[open]")) {
    if (open !== except) open.open = false;
  }
}

document.addEventListener("click", (event) => closeFilters(event.target.closest("details.oh-filter")));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") closeFilters(null); });
