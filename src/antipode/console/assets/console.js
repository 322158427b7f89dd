// Refreshes parts of pages, remembers the theme, and helps to confirm. Every page works without it,
// apart from refreshing itself.
"use strict";
(() => {
  const FIELDS = "input:not([type=hidden]), textarea, select";
  const offline = document.getElementById("offline");
  let lost = 0;

  function connected(is) {
    lost = is ? 0 : lost + 1;
    offline.hidden = lost < 2;
  }

  // ---- parts that are loaded later, and parts that refresh themselves ----

  function isInUse(region) {
    const active = document.activeElement;
    if (active !== null && active.matches(FIELDS) && region.contains(active)) return true;
    return region.dataset.dirty === "1";
  }

  function focusOf(region) {
    const active = document.activeElement;
    if (active === null || !region.contains(active)) return null;
    return active.id ? ["id", active.id] : ["href", active.getAttribute("href")];
  }

  function replace(region, text) {
    const focused = focusOf(region);
    const open = [...region.querySelectorAll("details[id][open]")].map((one) => one.id);
    const scrolled = [...region.querySelectorAll(".scroll[id]")].map((one) => [one.id, one.scrollLeft]);
    region.innerHTML = text;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    for (const [id, left] of scrolled) {
      const one = document.getElementById(id);
      if (one !== null) one.scrollLeft = left;
    }
    if (focused !== null && focused[1]) {
      const [name, value] = focused;
      region.querySelector(`[${name}="${CSS.escape(value)}"]`)?.focus({ preventScroll: true });
    }
    prepare(region);
  }

  async function load(region, url) {
    let answer;
    try {
      answer = await fetch(url, {
        headers: { "X-Fragment": "1" },
        credentials: "same-origin",
        redirect: "error",
      });
    } catch {
      connected(false);
      return true;
    }
    connected(true);
    if (answer.status === 401) {
      const here = location.pathname.replace(/^\/console/, "") + location.search;
      location.assign(`/console/login?next=${encodeURIComponent(here)}`);
      return false;
    }
    const text = await answer.text();
    const isWhole = answer.ok || region.dataset.load !== undefined;
    if (isWhole && text !== region.dataset.shown && !isInUse(region)) {
      region.dataset.shown = text;
      replace(region, text);
      region.removeAttribute("aria-busy");
    }
    const goesOn = answer.headers.get("X-Ended") === null;
    if (!goesOn && region.dataset.ended === undefined) {
      region.dataset.ended = "1"; // the other parts show the end at once, too
      for (const other of document.querySelectorAll("[data-refresh]:not([data-ended])")) {
        load(other, other.dataset.refresh);
      }
    }
    return goesOn;
  }

  function begin(region) {
    region.addEventListener("input", () => { region.dataset.dirty = "1"; });
    if (region.dataset.load !== undefined) {
      region.setAttribute("aria-busy", "true");
      load(region, region.dataset.load);
      return;
    }
    const pause = Math.max(1, Number(region.dataset.every ?? 3)) * 1000;
    const again = async () => {
      const goesOn = document.hidden || (await load(region, region.dataset.refresh));
      if (goesOn) setTimeout(again, pause * (lost > 0 ? Math.min(1 + lost, 10) : 1));
    };
    setTimeout(again, pause);
  }

  // ---- forms ----

  function prepare(within) {
    for (const field of within.querySelectorAll("input[data-confirm]")) {
      const button = field.form.querySelector("button[type=submit]");
      const follow = () => { button.disabled = field.value.trim() !== field.dataset.confirm; };
      field.addEventListener("input", follow);
      follow();
    }
    for (const all of within.querySelectorAll("input[data-all]")) {
      all.addEventListener("change", () => {
        for (const one of all.form.querySelectorAll(`input[name="${all.dataset.all}"]`)) {
          one.checked = all.checked;
        }
      });
    }
    for (const region of within.querySelectorAll("[data-load], [data-refresh]")) begin(region);
  }

  document.addEventListener("submit", (event) => {
    const button = event.target.querySelector("button[type=submit]");
    if (button !== null && event.target.method === "post") {
      setTimeout(() => { button.disabled = true; }, 0); // not twice by a double click
    }
  });

  // ---- light and dark ----

  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    const year = 365 * 86400;
    document.cookie = `antipode-theme=${root.dataset.theme}; path=/console; max-age=${year}; samesite=lax`;
  });

  prepare(document);
})();
