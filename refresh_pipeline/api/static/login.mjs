// The form that asks for a key. The key goes into a signed cookie of the server and is kept nowhere else.

import { h, icon } from "/static/dom.mjs";

/** A login form; `entered` runs after a right key. */
export function loginForm(message, entered) {
  const key = h("input", { id: "key", type: "password", name: "key", autocomplete: "current-password", required: true });
  const alert = h("p", { class: "login-alert", role: "alert", hidden: true });
  const submit = h("button", { type: "submit", class: "button primary wide" }, "Log in");
  const form = h("form", { class: "login card" }, h("div", { class: "login-mark" }, icon("chart")), h("h1", {}, "Refresh Pipeline"), h("p", { class: "muted" }, "This server asks for a key."), h("label", { for: "key" }, "Key (REFRESH_API_KEY)"), key, alert, submit);
  form.addEventListener("submit", async event => {
    event.preventDefault();
    submit.disabled = true;
    const reason = await refused(key.value);
    submit.disabled = false;
    if (reason === null) entered();
    else { alert.textContent = reason; alert.hidden = false; key.select(); }
  });
  return form;
}

async function refused(key) {
  try {
    const response = await fetch("/api/v1/session", { method: "POST", credentials: "same-origin", headers: { "content-type": "application/json" }, body: JSON.stringify({ key }) });
    if (response.ok) return null;
    const body = await response.json().catch(() => ({}));
    return body.detail ?? "The key is wrong.";
  } catch {
    return "Not connected: the API does not answer.";
  }
}
