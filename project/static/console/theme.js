/*
 * Light or dark, before the first paint: a classic script in <head>, because a module would run too late and flash.
 * Without a choice the page follows the system; the choice is remembered on this device.
 */
(function () {
  const KEY = "ohsessions:theme";
  const root = document.documentElement;

  function read() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function apply(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }

  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  apply(read());
  addEventListener("storage", (event) => {
    if (event.key === KEY) apply(event.newValue);
  });
  document.addEventListener("DOMContentLoaded", () => {
    for (const button of document.querySelectorAll("[data-theme-toggle]")) {
      const label = () => button.setAttribute("aria-label", isDark() ? "Use light colours" : "Use dark colours");
      label();
      button.addEventListener("click", () => {
        const theme = isDark() ? "light" : "dark";
        apply(theme);
        label();
        try {
          localStorage.setItem(KEY, theme);
        } catch {
          // Then it holds for this page only.
        }
      });
    }
  });
})();
