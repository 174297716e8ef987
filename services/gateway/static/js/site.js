// What every page has: the account menu, the dialog, buttons that press once, charts.
// Without this file each link and form still works; it only saves steps.

document.documentElement.classList.add("with-script");

// A button with an address of its own sends its form there itself, whatever the form is for.
document.addEventListener(
  "submit",
  (event) => {
    if (event.submitter?.hasAttribute("formaction")) event.stopPropagation();
  },
  true,
);

// A form is sent once: its buttons rest until the answer, or until the page is shown again
// from the browser's history.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (event.defaultPrevented || form.method !== "post" || form.dataset.sent) {
    if (form.dataset.sent) event.preventDefault();
    return;
  }
  form.dataset.sent = "yes";
  const pressed = event.submitter;
  // After the browser has collected the fields: a disabled button is not among them.
  setTimeout(() => {
    for (const part of form.elements) {
      if (part.type === "submit") part.disabled = true;
    }
    if (pressed?.dataset.busy) pressed.textContent = pressed.dataset.busy;
  });
});

window.addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  for (const form of document.querySelectorAll("form[data-sent]")) {
    delete form.dataset.sent;
    for (const part of form.elements) if (part.type === "submit") part.disabled = false;
  }
});

// The account menu closes on Escape and on a click elsewhere.
const menu = document.querySelector("details.account");
if (menu) {
  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && menu.open) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
}

// The one dialog: whatever htmx puts into it is shown.
const dialog = document.querySelector("#dialog");
if (dialog) {
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.target === dialog && !dialog.open) dialog.showModal();
  });
  dialog.addEventListener("click", (event) => {
    const closes = event.target.closest("[data-close]");
    if (event.target === dialog || closes) {
      event.preventDefault();
      dialog.close();
    }
  });
  dialog.addEventListener("close", () => dialog.replaceChildren());
}

// A fragment that could not be fetched: a link opens its page instead, which says why; a page
// that follows something says that it keeps trying.
const trouble = document.querySelector("#trouble");
document.addEventListener("htmx:afterRequest", (event) => {
  const { elt: asked, successful } = event.detail;
  if (!successful && asked instanceof HTMLAnchorElement) location.assign(asked.href);
  else if (!successful && asked instanceof HTMLFormElement) asked.submit();
  else if (trouble) trouble.textContent = successful ? "" : trouble.dataset.says;
});

// A session that ended meanwhile: the login page belongs in the window, not in a fragment.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { pathname } = new URL(event.detail.xhr.responseURL || location.href, location.href);
  if (pathname === "/login" && location.pathname !== "/login") {
    event.detail.shouldSwap = false;
    const back = location.pathname + location.search;
    location.assign(`/login?next=${encodeURIComponent(back)}`);
  }
});

// The balance in the header, and wherever else the page shows it, stays true while the page is
// open: asked again when the page comes to the front, when a part of it changed, and now and then.
const REFRESH_EVERY_MS = 20_000;
const live = () => document.querySelectorAll("[data-live]");
async function refresh() {
  if (document.hidden || !live().length) return;
  const answer = await fetch("/api/navbar/dropdown-data").catch(() => null);
  if (!answer?.ok) return;
  const now = await answer.json();
  for (const place of live()) {
    if (place.textContent !== now[place.dataset.live]) place.textContent = now[place.dataset.live];
  }
}
if (menu) {
  document.addEventListener("visibilitychange", refresh);
  document.addEventListener("htmx:afterSwap", refresh);
  setInterval(refresh, REFRESH_EVERY_MS);
}

// Times are written in UTC; the reader's own time stands beside them, with the day where it differs.
function addLocalTimes() {
  for (const time of document.querySelectorAll("time[datetime]:not([data-local])")) {
    time.dataset.local = "yes";
    const at = new Date(time.dateTime);
    if (!at.getTimezoneOffset()) continue;
    const isSameDay = at.getDate() === at.getUTCDate();
    const day = isSameDay ? {} : { day: "numeric", month: "short" };
    const local = at.toLocaleString("en-GB", { ...day, hour: "2-digit", minute: "2-digit" });
    // A line may end before it, and not within it.
    time.append(` ${`(${local} your time)`.replaceAll(" ", "\u00a0")}`);
  }
}
addLocalTimes();
document.addEventListener("htmx:afterSwap", addLocalTimes);

// A select or checkbox that changes the list sends its form by itself.
document.addEventListener("change", (event) => {
  if (event.target.matches("[data-autosubmit]")) event.target.form.requestSubmit();
});

// Typing an own amount chooses it.
document.addEventListener("focusin", (event) => {
  if (event.target.matches(".custom-amount input")) {
    const choice = event.target.form.querySelector(".amount-custom");
    if (choice) choice.checked = true;
  }
});
document.addEventListener("change", (event) => {
  if (event.target.matches(".amount-custom") && event.target.checked) {
    event.target.form.querySelector(".custom-amount input")?.focus();
  }
});
