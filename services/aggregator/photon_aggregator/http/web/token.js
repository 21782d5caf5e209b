// The form for the token that reads this job, shown when the aggregator asks for one.

import { byId, mark, say } from "./dom.js";

export function tokenForm(feed) {
  const form = byId("token"), field = byId("token-value"), error = byId("token-error");
  let asked = false;
  feed.listen((what) => {
    if (what !== "connection") return;
    if (feed.needsToken && form.hidden) { mark(form, "hidden", null); field.focus(); }
    if (feed.needsToken && (asked || feed.source.hasToken)) say(error, "This token is not the job's.");
    if (!feed.needsToken) { mark(form, "hidden", ""); say(error, ""); asked = false; }
    mark(document.body, "data-closed", feed.needsToken ? "" : null);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    asked = true;
    feed.source.useToken(field.value.trim());
    field.value = "";
    feed.tokenGiven();
  });
}
