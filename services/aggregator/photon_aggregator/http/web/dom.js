// Elements and their text. Whatever comes from outside becomes a text node or an attribute's value, never markup, and
// nothing is written that is there already: a page that is open for weeks must not keep a browser busy.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) node.setAttribute(name, value);
  node.append(...children.filter((child) => child != null));
  return node;
}

export function say(node, text) {
  const wanted = text ?? "";
  if (node.textContent !== wanted) node.textContent = wanted;
}

export function mark(node, name, value) {
  if (value == null || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
  } else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function width(node, percent) {
  const wanted = `${Math.max(0, Math.min(100, percent)).toFixed(1)}%`;
  if (node.style.width !== wanted) node.style.width = wanted;
}

// A row of buttons of which one is pressed.
export function choice(label, options, current, choose) {
  const group = element("div", { class: "choice", role: "group", "aria-label": label });
  for (const [key, text] of options) {
    const button = element("button", { type: "button", "aria-pressed": key === current }, text);
    button.addEventListener("click", () => {
      for (const other of group.children) mark(other, "aria-pressed", String(other === button));
      choose(key);
    });
    group.append(button);
  }
  return group;
}

// Run once in the next frame, however often it is asked for.
const due = new Set();
export function nextFrame(work) {
  if (!due.size) requestAnimationFrame(() => {
    const jobs = [...due];
    due.clear();
    for (const job of jobs) job();
  });
  due.add(work);
}
