// Shows what /state says, and asks again every few seconds. Everything is set as text, so that nothing is markup.
'use strict';

const EVERY = 5000;
const LIMIT = 4000;
const byId = (id) => document.getElementById(id);
let lastSeen = null;

const number = (value) => (value === null || value === undefined ? '–' : value.toLocaleString('en-US'));

function span(seconds) {
  const units = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const [size, unit] = units.find(([size]) => seconds >= size) ?? [1, 's'];
  return `${Math.floor(seconds / size)} ${unit}`;
}

function ago(time, now) {
  if (!time) return '–';
  return `${span(Math.max(0, (Date.parse(now) - Date.parse(time)) / 1000))} ago`;
}

function element(name, text, className) {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function list(id, pairs) {
  byId(id).replaceChildren(...pairs.flatMap(([name, value]) => [element('dt', name), element('dd', value, value.length > 40 ? 'long' : '')]));
}

function ages(bands, neverRead) {
  const all = [...bands, { name: 'never read', rows: neverRead }];
  const most = Math.max(1, ...all.map((band) => band.rows));
  const row = (band) => {
    const bar = document.createElement('progress');
    bar.max = most;
    bar.value = band.rows;
    bar.title = `${band.name}: ${number(band.rows)}`;
    return [element('span', band.name), bar, element('b', number(band.rows))];
  };
  byId('ages').replaceChildren(...(bands.length ? all.flatMap(row) : []));
}

function runRow(run, now) {
  const good = ['complete', 'running', 'skipped'].includes(run.outcome);
  const bad = run.outcome === 'failed';
  const row = document.createElement('tr');
  row.append(
    element('td', run.shard ? `${run.command} ${run.shard}` : run.command),
    element('td', run.outcome.replace('_', ' '), bad ? 'bad' : good ? 'good' : ''),
    element('td', ago(run.ended_at, now)),
    element('td', run.exit_status === null ? '–' : String(run.exit_status)),
    element('td', run.error ?? ''),
  );
  return row;
}

function state(text, className) {
  const shown = byId('state');
  shown.className = `state ${className}`;
  if (shown.textContent !== text) shown.textContent = text;
  document.title = `${text} – ethtally`;
}

function link(name, current) {
  const made = element(name === current ? 'b' : 'a', name);
  if (name !== current) made.href = `?profile=${encodeURIComponent(name)}`;
  return made;
}

function show({ time, version, profile, profiles, health, head_timestamp: head, table, last_runs: runs }) {
  byId('version').textContent = profile ? `${version}, ${profile}` : version;
  byId('profiles').replaceChildren(...(profiles ?? []).map((name) => link(name, profile)));
  const well = health.reasons.length === 0;
  state(`${well ? 'healthy' : 'unhealthy'}, ${health.role}`, well ? 'good' : 'bad');
  byId('problems').hidden = well;
  byId('reasons').replaceChildren(...health.reasons.map((reason) => element('li', reason)));
  const behind = health.head_block !== null && health.checkpoint_block !== null
    ? number(Math.max(0, health.head_block - health.checkpoint_block)) : '–';
  list('chain', [
    ['Newest block', number(health.head_block)],
    ['Its age', head === null ? '–' : span(Math.max(0, Date.parse(time) / 1000 - head))],
    ['Stored up to', number(health.checkpoint_block)],
    ['Blocks behind', behind],
    ['Connection', health.connected ? health.transport : 'none'],
    ['Last event', ago(health.last_event_at, time)],
    ['Errors', number(health.errors)],
    ['Last error', health.last_error ?? 'none'],
  ]);
  list('table', table === null ? [['Rows', 'not looked up yet']] : [
    ['Rows', number(table.rows)],
    ['Unreadable wallets', number(table.unreadable)],
    ['Oldest read row', ago(table.oldest_read, time)],
  ]);
  ages(table?.age_bands ?? [], table?.never_read ?? 0);
  byId('runs').replaceChildren(...runs.map((run) => runRow(run, time)));
}

async function refresh() {
  try {
    const response = await fetch(`state${location.search}`, { cache: 'no-store', signal: AbortSignal.timeout(LIMIT) });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    show(await response.json());
    lastSeen = new Date();
    document.body.classList.remove('stale');
    byId('seen').textContent = `updated ${lastSeen.toLocaleTimeString()}`;
  } catch {
    document.body.classList.add('stale');
    state('no answer', 'bad');
    const since = lastSeen ? `; this is as of ${lastSeen.toLocaleTimeString()}` : '';
    byId('seen').textContent = `watch does not answer${since}`;
  }
  setTimeout(refresh, EVERY);
}

refresh();
