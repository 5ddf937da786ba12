// Runs chains of transformations as Grafana's page does.
//   node transform.cjs FOLDER < chains.json > results.json
// FOLDER holds node_modules; a chain is {transformations, frames}, a result {frames} or {error}.
'use strict';

// A browser's globals, as far as the package looks for them while it is loaded: each answers everything with itself.
const anything = new Proxy(function () {}, {
  get: (_, key) => (key === Symbol.toPrimitive ? () => '' : anything),
  apply: () => anything,
  construct: () => anything,
  set: () => true,
});
const silent = () => {};
process.env.NODE_ENV = 'test'; // no warnings about texts that nobody translates here
Object.assign(globalThis, { window: globalThis, document: anything, localStorage: anything, history: anything });
Object.assign(globalThis, { location: { href: 'http://localhost/', search: '', hash: '' }, addEventListener: silent });
// Results go out on stdout; what the package has to say goes elsewhere.
console.log = console.info = console.error;

const folder = process.argv[2];
const load = (name) => require(require.resolve(name, { paths: [folder] }));
const grafana = load('@grafana/data');
const { lastValueFrom, map } = load('rxjs');

// 13 wants each transformation behind an async loader.
const lazy = Number(load('@grafana/data/package.json').version.split('.')[0]) >= 13;
const known = new Map(Object.values(grafana.standardTransformers).map((one) => [one.id, one]));
known.set('partitionByValues', { id: 'partitionByValues', name: '', operator: (options) => map((frames) => parts(frames, options)) });
grafana.standardTransformersRegistry.setInit(() =>
  [...known.values()].map((one) => ({
    id: one.id,
    name: one.name,
    aliasIds: one.aliasIds,
    editor: () => null,
    transformation: lazy ? async () => one : one,
  }))
);

// A stand-in: this one is part of the page and not of the package. One frame for each value of one column, named as the
// value; without that column unless fields are kept. The tests in a browser see what the page's own makes of it.
function parts([frame], { fields: [key], keepFields, naming }) {
  if (!frame) {
    return [];
  }
  if (naming?.asLabels !== false) {
    throw new Error('the stand-in for partitionByValues knows naming.asLabels: false alone');
  }
  const keys = frame.fields.find((field) => field.name === key)?.values ?? [];
  return [...new Set(keys)].map((name) => {
    const rows = [...keys.keys()].filter((row) => keys[row] === name);
    const fields = frame.fields
      .filter((field) => keepFields || field.name !== key)
      .map((field) => ({ ...field, config: { ...field.config }, state: undefined, values: rows.map((row) => field.values[row]) }));
    return { name, refId: `${frame.refId}-${name}`, meta: frame.meta, length: rows.length, fields };
  });
}

async function run({ transformations, frames }) {
  // One that is not there would be passed over in silence.
  const unknown = transformations.map((step) => step.id).filter((id) => !known.has(id));
  if (unknown.length) {
    return { unknown };
  }
  const steps = transformations.filter((step) => !step.disabled);
  const out = await lastValueFrom(grafana.transformDataFrame(steps, frames.map((one) => grafana.dataFrameFromJSON(one))));
  return { frames: out.map((frame) => shown(frame, out)) };
}

function shown(frame, all) {
  const fields = frame.fields.map((field) => ({
    name: grafana.getFieldDisplayName(field, frame, all),
    type: field.type,
    labels: field.labels ?? {},
    // JSON has no undefined, and a hole in an array is one.
    values: Array.from(field.values, (value) => value ?? null),
  }));
  return { refId: frame.refId ?? null, length: frame.length, fields };
}

let text = '';
process.stdin.setEncoding('utf8');
process.stdin.on('data', (part) => (text += part));
process.stdin.on('end', async () => {
  const results = [];
  for (const chain of JSON.parse(text)) {
    try {
      results.push(await run(chain));
    } catch (error) {
      results.push({ error: String(error.stack ?? error) });
    }
  }
  process.stdout.write(JSON.stringify(results));
});
