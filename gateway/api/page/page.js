import { ask, by, session } from "./common.js";
import * as coverage from "./coverage.js";

// One page, no framework, no outside address: the latest events as they are stored, devices, and the way to 110.
const WORDS = {
  en: { title: "Fangkong gateway", account: "Account", password: "Password or one-time secret", renew: "New password (at first, or to change it)", open: "Log in", leave: "Log out", destinations: "Destinations", devices: "Devices", events: "Latest events",
    name: "Name", state: "State", life: "Life", alarm: "Alarm", fault: "Fault", status: "Status", bulk: "Bulk", dead: "Undeliverable", time: "Time", lane: "Lane",
    what: "Event", where: "Place", device: "Device", up: "up", down: "down", removed: "removed, events wait", live: "live", gone: "no connection", refused: "please log in", denied: "not right", often: "too many tries, wait a little", weak: "choose a password of 10 characters or more that nobody guesses",
    board: "Duty desk", coverage: "Coverage", tree: "By place", gaps: "Gaps, the greatest risk first", siteKind: "Kind of site", gap: "Gap", path: "Where this is", noGaps: "No gaps here.",
    heard: "heard", silent: "silent", unproven: "unproven", unclaimed: "unclaimed", new: "", restore: "restored", update: "still there", test: "TEST" },
  "zh-CN": { up: "正常", down: "中断", removed: "已移除,有事件待送", live: "实时", gone: "连接中断", refused: "请登录", denied: "账号或密码不正确", often: "尝试过多,请稍候", weak: "新密码至少10个字符,且不易猜测", life: "生命", alarm: "报警", fault: "故障", status: "状态", bulk: "数据",
    heard: "在线", silent: "失联", unproven: "未证实", unclaimed: "未登记", new: "", restore: "恢复", update: "仍存在", test: "测试" },
};
const ROWS = 30, LOOK_MS = 2000, RETRY_MS = 2000;
const EVENT_SETTLES_MS = 1500;
let mayLookNorth = false, soon = 0;
const word = (key) => WORDS[session.language][key] ?? key;
const view = () => new URLSearchParams(location.hash.slice(1)).get("view") === "coverage" ? "coverage" : "board";

function cell(row, text, kind) {
  const td = row.insertCell();
  td.textContent = text;
  if (kind) td.className = kind;
}

function show(state, ok) {
  by("link").textContent = word(state);
  by("link").className = `badge ${ok ? "ok" : "bad"}`;
}

function draw(event) {
  const body = by("events"), row = body.insertRow(0);
  const kind = session.language === "en" ? event.kind_en : event.kind_zh;
  cell(row, new Date(event.received_at).toLocaleTimeString(session.language, { hour12: false }));
  cell(row, word(event.lane), event.lane);
  cell(row, [event.test ? `[${word("test")}]` : "", kind, word(event.qualifier), event.kind === "unknown" ? event.code ?? "" : ""].filter(Boolean).join(" "), event.qualifier === "new" ? event.lane : "");
  cell(row, event.claimed ? [event.site_name, event.point_name].filter(Boolean).join(" ") : word("unclaimed"));
  cell(row, event.zone === null ? event.device : `${event.device} / ${event.zone}`);
  while (body.rows.length > ROWS) body.deleteRow(-1);
}

function turnTo() {
  for (const name of ["board", "coverage"]) {
    by(name).hidden = name !== view();
    by(`to-${name}`).toggleAttribute("aria-current", name === view());
  }
}

const look = () => (view() === "coverage" ? coverage.look() : lookAtBoard());

// What an event changes is counted a second later.
function lookSoon() {
  clearTimeout(soon);
  soon = setTimeout(() => look().catch(() => {}), EVENT_SETTLES_MS);
}

async function lookAtBoard() {
  by("road").hidden = !mayLookNorth;
  const [destinations, devices] = await Promise.all([mayLookNorth ? ask("/api/v1/destinations") : null, ask("/api/v1/devices?limit=1000")]);
  const body = by("destinations");
  body.replaceChildren();
  for (const each of destinations ? (await destinations.json()).items : []) {
    const row = body.insertRow();
    cell(row, each.name);
    const state = !each.configured ? "removed" : each.up ? "up" : "down";
    cell(row, word(state), each.up ? "ok" : "bad");
    for (const lane of ["life", "alarm", "fault"]) cell(row, each.backlog[lane], each.backlog[lane] ? lane : "");
    cell(row, each.dead, each.dead ? "bad" : "");
  }
  const counts = { heard: 0, silent: 0, unproven: 0, unclaimed: 0 };
  for (const each of (await devices.json()).items) counts[each.state] += 1;
  by("devices").replaceChildren(...Object.entries(counts).map(([state, count]) => {
    const item = document.createElement("li"), number = document.createElement("strong");
    number.textContent = count;
    item.append(number, word(state));
    if (state === "silent" && count) item.className = "bad";
    return item;
  }));
}

async function follow() {
  const first = await (await ask(`/api/v1/events?newest_first=true&limit=${ROWS}`)).json();
  by("events").replaceChildren();
  for (const event of first.items.reverse()) draw(event);
  let after = first.items.length ? first.items.at(-1).seq : 0;
  for (;;) {
    const reader = (await ask(`/api/v1/stream?after=${after}`)).body.pipeThrough(new TextDecoderStream()).getReader();
    show("live", true);
    for (let text = ""; ;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (text + value).split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "));
        if (!data) continue;
        const event = JSON.parse(data.slice(6));
        after = event.seq;
        draw(event);
        lookSoon();
      }
    }
  }
}

async function run() {
  let every = 0;
  try {
    const me = await (await ask("/api/v1/session")).json();
    if (session.token) sessionStorage.setItem("token", session.token);
    mayLookNorth = me.sites === null && me.permissions.includes("deliveries");
    by("who").textContent = me.actor.replace("account:", "");
    by("login").hidden = true;
    by("views").hidden = false;
    by("leave").hidden = false;
    turnTo();
    every = setInterval(() => look().catch(() => {}), LOOK_MS);
    await look();
    await follow();
  } catch (error) {
    const refused = error.message === "refused";
    show(refused ? "refused" : "gone", false);
    if (refused) {
      sessionStorage.removeItem("token");
      session.token = "";
      by("who").textContent = "";
      by("login").hidden = false;
      by("views").hidden = by("board").hidden = by("coverage").hidden = true;
      by("leave").hidden = true;
    } else setTimeout(run, RETRY_MS);
  } finally {
    clearInterval(every);
  }
}

async function post(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error({ 401: "denied", 422: "weak", 429: "often" }[answer.status] ?? "gone");
}

async function enter(event) {
  event.preventDefault();
  const account = by("account").value.trim(), secret = by("password").value, chosen = by("renew").value;
  by("refusal").textContent = "";
  try {
    if (chosen) await post("/api/v1/password", { account, secret, new: chosen });
    await post("/api/v1/session", { account, password: chosen || secret });
    by("password").value = by("renew").value = "";
    await run();
  } catch (error) {
    by("refusal").textContent = word(error.message);
  }
}

async function leave() {
  if (!session.token) await fetch("/api/v1/session", { method: "DELETE" });
  sessionStorage.removeItem("token");
  location.reload();
}

async function begin() {
  session.language = (await (await fetch("/language")).text()).trim();
  session.words = await (await fetch("/words.json")).json();
  document.documentElement.lang = session.language;
  if (session.language === "en") {
    for (const each of document.querySelectorAll("[data-text]")) each.textContent = word(each.dataset.text);
    for (const each of document.querySelectorAll("[data-label-text]")) each.ariaLabel = word(each.dataset.labelText);
  }
  document.title = document.querySelector("h1").textContent;
  by("login").addEventListener("submit", enter);
  by("leave").addEventListener("click", leave);
  coverage.prepare();
  addEventListener("hashchange", () => {
    if (!by("views").hidden) turnTo();
    lookSoon();
  });
  // A token in the fragment never leaves the browser; it is taken out of the address at once, the view that it leads to is not.
  const given = new URLSearchParams(location.hash.slice(1)), token = given.get("token");
  given.delete("token");
  if (token) history.replaceState(null, "", given.size ? `#${given}` : location.pathname);
  session.token = token ?? sessionStorage.getItem("token") ?? "";
  run();
}

begin();
