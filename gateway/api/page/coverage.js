// What must be protected, what is installed, what works and what 110 hears: four figures, the tree, and the gaps by risk.
import { ask, by, make, say, session } from "./common.js";

const WORDS = {
  en: { required: "Required", installed: "Installed", working: "Working", networked: "Networked", points: "points", nothing: "n/a (nothing required)", noneInstalled: "n/a (nothing installed)", all: "Everything",
    waived: "waived", unsupervised: "unsupervised", overdue: "live test overdue", degraded: "degraded", effective: "working of required", units: "units with all installed",
    target: "target units with all installed", physical: "physical measures in order", advised: "advised, installed", entrances: "entrances controlled",
    deficiencies: "deficiencies", late: "past their due date", rectified: "said to be put right", open: "Open", close: "Close", more: "Show more",
    risk: "Risk", place: "Where", gap: "Gap", because: "Cause", since: "Since", responsible: "Responsible", due: "Due", days: "d", via: "through",
    notYet: "not due yet", isLate: "overdue", online: "working, networked", unproved: "working", passed: "passed inspection", every: "all", unplanned: "no such point planned", asOf: "As of", empty: "Nothing is counted here." },
  "zh-CN": { required: "应装", installed: "已装", working: "完好", networked: "联网", points: "个点位", nothing: "n/a (无应装点位)", noneInstalled: "n/a (无已装点位)", all: "全部",
    waived: "豁免", unsupervised: "无自检", overdue: "触发测试超期", degraded: "降级", effective: "有效(完好/应装)", units: "单位全部装齐",
    target: "目标单位全部装齐", physical: "实体防范合格", advised: "建议项已装", entrances: "出入口受控",
    deficiencies: "整改单", late: "超过整改期限", rectified: "已报整改", open: "展开", close: "收起", more: "显示更多",
    risk: "风险", place: "位置", gap: "缺口", because: "原因", since: "起始", responsible: "责任方", due: "整改期限", days: "天", via: "经由",
    notYet: "未到立项时间", isLate: "已超期", online: "正常、已联网", unproved: "正常", passed: "检查合格", every: "全部", unplanned: "未规划该类点位", asOf: "截至", empty: "此处没有统计对象。" },
};
const FIGURES = [["required", null], ["installed", "required"], ["working", "installed"], ["networked", "must_network"]];
const BESIDE = ["waived", "unsupervised", "overdue", "degraded"];
const SHARES = [["effective", "working", "required"], ["units", "units_installed", "units"], ["target", "target_units_installed", "target_units"],
  ["physical", "physical_ok", "physical"], ["advised", "advised_installed", "advised"], ["entrances", "entrances_controlled", "entrances"]];
const COLUMNS = ["risk", "place", "gap", "because", "since", "responsible", "due"];
const GAPS_AT_ONCE = 100, GAPS_MAX = 1000, FULL_MS = 60000, DAY_MS = 86400000;
const opened = new Set(["all"]);
let shown = "", visited = null, full = 0, limit = GAPS_AT_ONCE, turn = 0;

const word = (key) => WORDS[session.language][key];
const called = (list, code) => session.words[list]?.[code] ?? code;
const wanted = () => new URLSearchParams(location.hash.slice(1));

// Rounded down to a tenth: 100 % is said of what is complete, and of nothing else.
export const share = (part, whole, nothing = word("nothing")) => (whole ? `${(Math.floor((part * 1000) / whole) / 10).toFixed(1)} % (${part}/${whole})` : nothing);
const empty = (whole) => word(whole === "installed" ? "noneInstalled" : "nothing");
const mood = (part, whole) => (!whole ? "quiet" : part === whole ? "ok" : "alarm");

function link(changes) {
  const query = wanted();
  for (const [key, value] of Object.entries({ view: "coverage", ...changes })) value && value !== "all" ? query.set(key, value) : query.delete(key);
  return `#${query}`;
}

const get = async (path, query) => (await ask(`/api/v1/${path}?${new URLSearchParams(query)}`)).json();

// Of the node and the kind of site that are looked at, unless told otherwise.
function query(path, more = {}) {
  const scope = [...wanted()].filter(([key]) => key === "node" || key === "kind");
  return get(path, { ...Object.fromEntries(scope), ...more });
}

function drawFigures(here) {
  const counts = here.counts, list = by("figures");
  if (!list.children.length)
    for (const [name, whole] of FIGURES)
      list.append(make("li", { id: `figure-${name}` }, make("span", { class: "label" }, word(name)), make("strong"), make("span", { class: "counts" }),
        ...(whole ? [make("meter", { min: 0, "aria-hidden": "true" })] : [])));
  for (const [name, whole] of FIGURES) {
    const card = by(`figure-${name}`), part = counts[name], of = whole ? counts[whole] : 0;
    const [rate, ...counted] = whole && of ? share(part, of).split(" (") : [];
    if (whole) {
      say(card.querySelector("strong"), rate ?? "n/a", mood(part, of));
      say(card.querySelector(".counts"), rate ? counted[0].slice(0, -1) : empty(whole).slice(4));
      Object.assign(card.querySelector("meter"), { max: of || 1, value: part });
    } else {
      say(card.querySelector("strong"), String(part));
      say(card.querySelector(".counts"), part ? word("points") : word("nothing"));
    }
  }
  const shares = SHARES.filter(([name, , whole]) => counts[whole] || name === "effective");
  by("beside").replaceChildren(
    ...BESIDE.map((name) => make("li", { class: counts[name] ? "some" : "quiet" }, `${word(name)} `, make("strong", {}, String(counts[name])))),
    ...shares.map(([name, part, whole]) => make("li", { class: mood(counts[part], counts[whole]) }, `${word(name)} `, make("strong", {}, share(counts[part], counts[whole])))));
}

function drawPath(here) {
  const steps = here.node === "all" ? [] : [{ node: "all", name: word("all") }, ...here.parents];
  by("path").replaceChildren(...steps.flatMap((step) => [make("a", { href: link({ node: step.node }) }, step.name), " "]));
  const kind = here.kind ? called(here.node.startsWith("site:") ? "site_kind" : "area_kind", here.kind) : "";
  by("place").replaceChildren(here.name || word("all"), ...(kind ? [" ", make("small", {}, kind)] : []));
  say(by("as-of"), `${word("asOf")} ${new Date(here.at).toLocaleTimeString(session.language, { hour12: false })}`);
}

// -- the tree ----------------------------------------------------------------------------------------------------------

function standing(each) {
  if (each.gap) return [called("gap", each.gap), each.duty === "mandatory" ? "bad" : "alarm"];
  if (each.waived) return [word("waived"), "quiet"];
  if (each.family === "physical") return [word("passed"), "ok"];
  if (each.overdue) return [word("overdue"), "alarm"];
  if (each.degraded) return [word("degraded"), "alarm"];
  return [word(each.networked ? "online" : "unproved"), "ok"];
}

const why = (each) => [called("because", each.because), each.via ? `${word("via")} ${each.via}` : "", each.device].filter(Boolean).join(" · ");

function pointRow(each) {
  const [state, kind] = standing(each);
  return make("li", {}, make("div", { class: "row point" },
    make("span", { class: "name" }, each.point_name || word("unplanned"), " ", make("small", {}, called("measure", each.measure))),
    make("span", { class: `state ${kind}` }, state, each.unsupervised ? make("small", {}, word("unsupervised")) : ""),
    make("span", { class: "why" }, each.gap || each.waived ? [why(each), day(each.gap_since)].filter(Boolean).join(" · ") : "")));
}

function nodeRow(each, below) {
  const isOpen = opened.has(each.node), name = each.name || word("all"), id = `below-${each.node}`;
  const figures = FIGURES.map(([figure, whole]) => make("span", { class: `cell ${whole ? mood(each.counts[figure], each.counts[whole]) : ""}` },
    make("span", { class: "label" }, `${word(figure)} `), whole ? share(each.counts[figure], each.counts[whole], empty(whole)) : String(each.counts[figure])));
  const toggle = make("button", { type: "button", class: "toggle", "aria-expanded": String(isOpen), "aria-controls": isOpen ? id : null, "aria-label": `${word(isOpen ? "close" : "open")} ${name}`, "data-node": each.node }, isOpen ? "▾" : "▸");
  const to = make("a", { class: "name", href: link({ node: each.node }), "aria-current": each.node === (wanted().get("node") ?? "all") ? "true" : null, "data-node": each.node }, name,
    ...(each.node.startsWith("site:") ? [" ", make("small", {}, called("site_kind", each.kind))] : []));
  return make("li", {}, make("div", { class: "row" }, toggle, to, ...figures), ...(isOpen ? [make("ul", { id }, ...below)] : []));
}

async function branch(each) {
  if (!opened.has(each.node)) return nodeRow(each, []);
  if (each.node.startsWith("site:")) {
    const points = await get("coverage/points", { site: each.node.slice(5), limit: 1000 });
    return nodeRow(each, points.items.length ? points.items.map(pointRow) : [make("li", { class: "quiet" }, word("empty"))]);
  }
  const here = await query("coverage", { node: each.node });
  return nodeRow(here, await Promise.all(here.children.map(branch)));
}

function drawTree(root) {
  const focused = document.activeElement, tag = focused?.tagName, node = focused?.dataset?.node;
  by("tree").replaceChildren(root);
  if (node) by("tree").querySelector(`${tag}[data-node="${CSS.escape(node)}"]`)?.focus();
}

async function toggle(node, isOpen) {
  if (isOpen === opened.has(node)) return;
  isOpen ? opened.add(node) : opened.delete(node);
  await look(true);
}

// Up and down from row to row, right opens, left closes: as in every tree.
function steer(event) {
  const node = event.target.dataset?.node, names = [...by("tree").querySelectorAll("a.name")];
  const at = names.findIndex((each) => each.dataset.node === node);
  if (at < 0) return;
  if (event.key === "ArrowRight") toggle(node, true);
  else if (event.key === "ArrowLeft") toggle(node, false);
  else if (event.key === "ArrowDown") names[at + 1]?.focus();
  else if (event.key === "ArrowUp") names[at - 1]?.focus();
  else return;
  event.preventDefault();
}

// -- the gaps ----------------------------------------------------------------------------------------------------------

const day = (moment) => (moment ? new Date(moment).toLocaleDateString("sv") : "");
const age = (moment) => `${Math.max(0, Math.floor((Date.now() - new Date(moment)) / DAY_MS))} ${word("days")}`;

function gapRow(each) {
  const late = each.is_overdue ? ` ${word("isLate")}` : "";
  const cells = {
    risk: make("span", { class: `badge risk-${each.risk}` }, called("risk", each.risk)),
    place: make("span", {}, make("a", { href: link({ node: `site:${each.site}` }) }, each.site_name || each.site), ` ${each.point_name || word("unplanned")}`,
      make("small", {}, `${called("site_kind", each.site_kind)} · ${called("measure", each.measure)}${each.duty === "mandatory" ? "" : ` · ${called("duty", each.duty)}`}`)),
    gap: called("gap", each.gap),
    because: why(each) || "—",
    since: each.gap_since ? make("span", {}, day(each.gap_since), make("small", {}, age(each.gap_since))) : "—",
    responsible: each.responsible || "—",
    due: each.due ? make("span", { class: each.is_overdue ? "bad" : "" }, each.due + late) : make("span", { class: "quiet" }, each.duty === "mandatory" ? word("notYet") : "—"),
  };
  return make("tr", { role: "row" }, ...COLUMNS.map((column) => make("td", { role: "cell", "data-label": word(column), class: `of-${column}` }, cells[column])));
}

function drawGaps(gaps, tasks) {
  by("gap-rows").replaceChildren(...gaps.items.map(gapRow));
  by("no-gaps").hidden = gaps.items.length > 0;
  by("more").hidden = gaps.next === null || limit >= GAPS_MAX;
  const late = tasks.items.filter((each) => each.is_overdue).length, said = tasks.items.filter((each) => each.state === "rectified").length;
  const count = `${tasks.items.length}${tasks.next === null ? "" : "+"}`;
  by("tasks").replaceChildren(...[["deficiencies", count, ""], ["late", late, late ? "bad" : "quiet"], ["rectified", said, said ? "some" : "quiet"]].map(
    ([name, number, kind]) => make("li", { class: kind }, `${word(name)} `, make("strong", {}, String(number)))));
}

// -- all of it ---------------------------------------------------------------------------------------------------------

// Asked again only where the gateway has counted anew; due dates pass by time alone, so once a minute whatever happened.
export async function look(anew = false) {
  const mine = ++turn, here = await query("coverage");
  const state = `${location.hash} ${here.at} ${limit}`;
  if (mine !== turn || (!anew && state === shown && Date.now() - full < FULL_MS)) return;
  const filter = wanted().get("gap"), all = { node: "all", name: "", kind: "" };
  const top = opened.has("all") ? await query("coverage", { node: "all" }) : { ...here, ...all };
  if (!shown && top.children[0]?.node.startsWith("area:")) opened.add(top.children[0].node);
  if (here.node !== visited) for (const step of [...here.parents, here]) opened.add(step.node);
  visited = here.node;
  const [root, gaps, tasks] = await Promise.all([branch(top), query("coverage/gaps", { limit, ...(filter ? { gap: filter } : {}) }), query("deficiencies", { limit: GAPS_MAX })]);
  if (mine !== turn) return;
  [shown, full] = [state, Date.now()];
  drawPath(here);
  drawFigures(here);
  drawGaps(gaps, tasks);
  drawTree(root);
  for (const key of ["kind", "gap"]) by(`of-${key}`).value = wanted().get(key) ?? "";
}

const again = (anew) => look(anew).catch(() => {});

export function prepare() {
  for (const column of COLUMNS) by("gap-head").append(make("th", { scope: "col", role: "columnheader" }, word(column)));
  for (const [figure] of FIGURES) by("tree-head").append(make("span", {}, word(figure)));
  for (const [id, list] of [["of-kind", "site_kind"], ["of-gap", "gap"]]) {
    by(id).append(make("option", { value: "" }, word("every")), ...Object.entries(session.words[list]).map(([code, name]) => make("option", { value: code }, name)));
    by(id).addEventListener("change", () => { location.hash = link({ [id.slice(3)]: by(id).value }); });
  }
  by("more").textContent = word("more");
  by("more").addEventListener("click", () => { limit = Math.min(GAPS_MAX, limit + GAPS_AT_ONCE); again(true); });
  by("tree").addEventListener("click", (event) => {
    const node = event.target.closest("button")?.dataset.node;
    if (node) toggle(node, !opened.has(node)).catch(() => {});
  });
  by("tree").addEventListener("keydown", steer);
  addEventListener("hashchange", () => { limit = GAPS_AT_ONCE; if (!by("coverage").hidden) again(true); });
}
