// What both views share: the reader's language, asking the gateway, and building elements. Text is set as text, never as markup.

export const by = (id) => document.getElementById(id);
export const session = { language: "zh-CN", token: "", words: {} };

// A token (programs, the demo) goes along by hand; a person's session is a cookie that this script cannot read.
export async function ask(path) {
  const answer = await fetch(path, { headers: session.token ? { Authorization: `Bearer ${session.token}` } : {} });
  if (answer.status === 401) throw new Error("refused");
  if (!answer.ok) throw new Error("gone");
  return answer;
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  element.append(...children);
  return element;
}

// Says what changed, and only that: a reader aloud stays silent while nothing does.
export function say(element, text, kind = null) {
  if (element.textContent !== text) element.textContent = text;
  if (kind !== null && element.className !== kind) element.className = kind;
}
