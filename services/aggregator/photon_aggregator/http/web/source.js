// Speaking with the aggregator: JSON by GET, the token if there is one, an end to every wait.

const TOKEN = "photon-read-token";
const PATIENCE_MS = 10_000;

export class NeedsToken extends Error {}

export class Source {
  constructor() {
    // #token=... lets a person pass a link on; it leaves the address at once, and a fragment is never sent anywhere.
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      history.replaceState(null, "", location.pathname + location.search);
    }
  }

  get hasToken() { return sessionStorage.getItem(TOKEN) != null; }

  useToken(token) { sessionStorage.setItem(TOKEN, token); }

  forgetToken() { sessionStorage.removeItem(TOKEN); }

  async get(path, parameters = []) {
    const query = new URLSearchParams(parameters).toString();
    const token = sessionStorage.getItem(TOKEN);
    const reply = await fetch(query ? `${path}?${query}` : path, {
      headers: token ? { Authorization: `Bearer ${token}` } : {},
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    if (reply.status === 401) throw new NeedsToken();
    if (!reply.ok) throw new Error(`${path}: HTTP ${reply.status}`);
    return reply.json();
  }
}
