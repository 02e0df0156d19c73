/**
 * The session's events on the page.
 *
 * Events are queued and drawn in slices of a frame, so that ten thousand at once leave the page responsive. While the
 * reader is at the end it stays there; otherwise nothing moves, and a button says that there is more.
 */

import {
  RunBlock,
  StateBlock,
  PendingBlock,
  STATE_WORDS,
  dayBlock,
  echoBlock,
  errorBlock,
  isPassing,
  lineBlock,
  messageBlock,
  unknownBlock,
} from "./blocks.js";
import { el } from "./dom.js";
import { dayOf } from "./time.js";

/** Milliseconds of a frame to spend on drawing. */
const SLICE = 10;
/** A hidden page gets no frames, and still has to keep up. */
const HIDDEN_PAUSE = 200;
const AT_END_WITHIN = 48;
/** Milliseconds for which a scroll may follow the hand that caused it. */
const HAND_FOR = 1000;

const INTERRUPT_WORDS = {
  stopped: "Asked to stop",
  paused: "Asked to pause",
  running: "Asked to go on",
  user_confirmed: "Confirmed",
  user_rejected: "Rejected",
};

export class Timeline extends EventTarget {
  #scroller;
  #list;
  #pendingList;
  #jump;
  #queue = [];
  #isScheduled = false;
  /** @type {Map<number, RunBlock>} by the id of the action */
  #runs = new Map();
  /** @type {Set<RunBlock>} */
  #dirty = new Set();
  #running = new Set();
  #pending = new Map();
  #drafts = new Map();
  /** The last entry, if it is a state. */
  #lastState = null;
  #waking = null;
  #day = "";
  #isAtEnd = true;
  #unseen = 0;
  #drawnId = -1;
  #lastTop = 0;
  #lastHeight = 0;
  /** Until when scrolling counts as the reader's doing. */
  #handUntil = 0;

  constructor({ scroller, list, pendingList, jump }) {
    super();
    this.#scroller = scroller;
    this.#list = list;
    this.#pendingList = pendingList;
    this.#jump = jump;
    scroller.addEventListener("scroll", () => this.#noteScroll(), { passive: true });
    for (const name of ["wheel", "touchmove", "pointerdown", "keydown"]) {
      scroller.addEventListener(name, () => (this.#handUntil = performance.now() + HAND_FOR), { passive: true });
    }
    jump.addEventListener("click", () => this.jumpToEnd());
    // Images, fonts and a keyboard that opens change heights without a scroll.
    const observer = new ResizeObserver(() => this.#keepAtEnd());
    observer.observe(list);
    observer.observe(scroller);
  }

  clear() {
    this.#queue = [];
    for (const store of [this.#runs, this.#dirty, this.#running, this.#pending, this.#drafts]) store.clear();
    this.#list.replaceChildren();
    this.#pendingList.replaceChildren();
    this.#lastState = this.#waking = null;
    this.#day = "";
    this.#drawnId = -1;
    this.#isAtEnd = true;
    this.#setUnseen(0);
  }

  /** @param {object[]} events  stored events, in order */
  add(events) {
    // Not push(...events): ten thousand arguments are more than some stacks hold.
    for (const event of events) this.#queue.push(event);
    this.#schedule();
  }

  /** A line of the page itself, such as "Earlier events are no longer kept". */
  addLine(text) {
    this.#list.append(el("li", { class: "entry state" }, el("span", { text })));
  }

  /** Text that is being generated; it goes when the stored event comes. */
  addDraft(cause, text) {
    let draft = this.#drafts.get(cause);
    if (!draft) {
      draft = el("p", { class: "draft-text" });
      this.#drafts.set(cause, draft);
      this.#pendingList.prepend(el("li", { class: "entry message from-agent draft" }, el("div", { class: "bubble" }, draft)));
    }
    draft.append(text);
    this.#keepAtEnd();
  }

  clearDrafts() {
    for (const cause of [...this.#drafts.keys()]) this.#removeDraft(cause);
  }

  /** Show, change or remove a pending action. */
  showPending(action, isConnected, handlers) {
    const isDone = action.status === "stored" || action.status === "discarded";
    const hasEvent = action.eventId !== null && action.eventId <= this.#drawnId;
    let block = this.#pending.get(action.clientId);
    if (action.status === "discarded" || hasEvent || (isDone && action.eventId === null)) {
      block?.element.remove();
      this.#pending.delete(action.clientId);
      return;
    }
    if (!block) {
      if (isDone) return;
      block = new PendingBlock(action, handlers);
      this.#pendingList.append(block.element);
      this.#pending.set(action.clientId, block);
    }
    block.action = action;
    block.show(action, isConnected);
    this.#keepAtEnd();
  }

  jumpToEnd() {
    this.#isAtEnd = true;
    this.#handUntil = 0;
    this.#keepAtEnd();
    this.#setUnseen(0);
  }

  /** Nothing runs any more: the session is asleep, closed or failed. */
  abandonRuns() {
    for (const run of this.#running) run.abandon();
    this.#running.clear();
  }

  #schedule() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    const draw = () => {
      this.#isScheduled = false;
      this.#draw();
    };
    if (document.hidden) setTimeout(draw, HIDDEN_PAUSE);
    else requestAnimationFrame(draw);
  }

  #draw() {
    const until = performance.now() + SLICE;
    const fragment = document.createDocumentFragment();
    let count = 0;
    let taken = 0;
    // Between two looks at the clock, enough work that the looking does not matter.
    while (taken < this.#queue.length && (taken % 20 || performance.now() < until)) {
      count += this.#drawEvent(this.#queue[taken++], fragment) ? 1 : 0;
    }
    this.#queue = this.#queue.slice(taken);
    this.#list.append(fragment);
    for (const run of this.#dirty) if (run.draw()) this.#dirty.delete(run);
    this.#dropDrawnPending();
    if (this.#isAtEnd) this.#keepAtEnd();
    else if (count) this.#setUnseen(this.#unseen + count);
    if (this.#queue.length || this.#dirty.size) this.#schedule();
    this.dispatchEvent(new CustomEvent("drawn", { detail: { left: this.#queue.length } }));
  }

  #drawEvent(event, fragment) {
    this.#drawnId = event.id;
    if (event.cause !== undefined) this.#removeDraft(event.cause);
    const element = this.#elementFor(event);
    if (!element) return false;
    const day = dayOf(event.timestamp);
    if (day && day !== this.#day) {
      this.#day = day;
      fragment.append(dayBlock(day));
    }
    fragment.append(element);
    return true;
  }

  /** A new element for the event, or null when it belongs into one that is there, or nowhere. */
  #elementFor(event) {
    if (event.observation === "agent_state_changed") return this.#stateElement(event);
    if (event.observation === "run") return this.#runOutput(event);
    const element = this.#plainElement(event);
    if (element) this.#lastState = null;
    return element;
  }

  #plainElement(event) {
    if (event.action === "run") return this.#startRun(event);
    if (event.action === "message") return messageBlock(event, event.args?.content ?? event.message ?? "");
    if (event.action === "change_agent_state") {
      const state = event.args?.agent_state;
      return lineBlock(event, INTERRUPT_WORDS[state] ?? `Asked for the state ${state}`);
    }
    if (event.observation === "echo") return echoBlock(event);
    if (event.observation === "error") {
      this.#failRun(event.cause);
      return errorBlock(event);
    }
    // Other runtimes answer in words, under this name.
    if (event.observation === "message" || event.observation === "chat") return messageBlock(event, event.content);
    return unknownBlock(event);
  }

  #stateElement(event) {
    const state = event.extras?.agent_state;
    if (state === "loading" || state === "stopped") this.abandonRuns();
    if (isPassing(state) || !(state in STATE_WORDS)) return null;
    // Next to each other the last one counts; and who is awake is not waking up any more, whatever was said in between.
    const block = this.#lastState ?? (state === "init" ? this.#waking : null);
    this.#waking = null;
    if (block) {
      block.show(event);
      return null;
    }
    this.#lastState = new StateBlock(event);
    if (state === "loading") this.#waking = this.#lastState;
    return this.#lastState.element;
  }

  #startRun(event) {
    const run = new RunBlock(String(event.args?.command ?? ""), event.timestamp, event.args?.hidden === true);
    this.#runs.set(event.id, run);
    return run.element;
  }

  #runOutput(event) {
    let run = this.#runs.get(event.cause);
    const isNew = !run;
    if (isNew) {
      run = new RunBlock(event.extras?.command || "(an earlier command)", null);
      if (event.cause !== undefined) this.#runs.set(event.cause, run);
      this.#lastState = null;
    }
    run.add(event);
    this.#dirty.add(run);
    if (run.element.dataset.status === "running") {
      this.#running.add(run);
    } else {
      this.#running.delete(run);
      this.dispatchEvent(new CustomEvent("finished", { detail: event }));
    }
    return isNew ? run.element : null;
  }

  #failRun(cause) {
    const run = this.#runs.get(cause);
    if (!run || (run.element.dataset.status ?? "running") !== "running") return;
    run.fail();
    this.#running.delete(run);
  }

  #dropDrawnPending() {
    for (const [clientId, block] of this.#pending) {
      const { eventId } = block.action;
      if (eventId === null || eventId > this.#drawnId) continue;
      block.element.remove();
      this.#pending.delete(clientId);
    }
  }

  #removeDraft(cause) {
    this.#drafts.get(cause)?.closest("li").remove();
    this.#drafts.delete(cause);
  }

  #noteScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    const isNearEnd = scrollHeight - scrollTop - clientHeight < AT_END_WITHIN;
    // Only a reader who goes up leaves the end. Entries that get their real height when they come into sight move things
    // too; but without a hand on the page, and not while its focus is in the browser's search field.
    const isLayout = scrollHeight !== this.#lastHeight && performance.now() > this.#handUntil && document.hasFocus();
    if (isNearEnd) this.#isAtEnd = true;
    else if (scrollTop < this.#lastTop && !isLayout) this.#isAtEnd = false;
    this.#lastTop = scrollTop;
    this.#lastHeight = scrollHeight;
    if (this.#isAtEnd) this.#setUnseen(0);
    this.#keepAtEnd();
  }

  #keepAtEnd() {
    if (this.#isAtEnd) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#jump.hidden = this.#isAtEnd;
  }

  #setUnseen(count) {
    this.#unseen = count;
    this.#jump.textContent = count ? `Jump to latest (${count.toLocaleString()} new)` : "Jump to latest";
  }
}
