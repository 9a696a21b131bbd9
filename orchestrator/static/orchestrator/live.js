// Refreshes a job's page when its event stream says that something has changed. Without a stream the page polls.
(() => {
  // Beside a stream the page is still refreshed this often: ages grow.
  const IDLE_REFRESH = 15_000;
  // The most milliseconds between two refreshes of a page that changes all the time.
  const MAX_GAP = 4_000;
  let source = null, path = "", open = false, changed = false, refreshed = 0, timer = null;

  const page = () => document.querySelector("#job[data-events]");
  const isRead = () => document.querySelector("#job details.m-kept[open], #job :focus-visible");

  function refresh() {
    timer = null;
    const job = page();
    if (job && document.visibilityState === "visible" && !isRead()) {
      window.htmx.trigger(job, "job-changed");
      changed = false;
      refreshed = Date.now();
    }
  }

  function noteChange() {
    const job = page();
    changed = true;
    if (job && timer === null) {
      const gap = Math.min(Number(job.dataset.refreshSeconds) * 250, MAX_GAP);
      timer = setTimeout(refresh, Math.max(0, refreshed + gap - Date.now()));
    }
  }

  function close() {
    source?.close();
    source = null;
    path = "";
    open = false;
  }

  // Browsers open only a few connections to a server, so a page that nobody sees has none.
  function connect() {
    const job = page();
    const wanted = job && document.visibilityState === "visible" ? job.dataset.events : "";
    if (wanted === path) {
      return;
    }
    close();
    if (wanted && window.EventSource) {
      path = wanted;
      source = new EventSource(path);
      source.onopen = () => { open = true; };
      source.onerror = () => { open = false; };
      for (const name of ["status", "progress", "children", "gone"]) {
        source.addEventListener(name, noteChange);
      }
    }
  }

  // Whether the page is to be refreshed now that its time to poll has come.
  window.jobIsDue = () => {
    const due = !open || changed || Date.now() > refreshed + IDLE_REFRESH;
    if (due) {
      changed = false;
      refreshed = Date.now();
    }
    return due;
  };

  document.addEventListener("DOMContentLoaded", () => {
    refreshed = Date.now();
    connect();
    document.addEventListener("visibilitychange", connect);
    document.addEventListener("htmx:afterSettle", connect);
  });
})();
