// Says what is wrong with resources of operators, by validators that were made of the operators' own definitions:
//     node of_operators.mjs NODE_MODULES < resources.json
// Both are JSON: a list of resources, and for each a list of sentences. Those validators pass over fields that they do
// not know, and never read them: here each is told that nobody has read.
import { readFileSync, readdirSync } from "node:fs";
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "keda.sh": "keda",
  "monitoring.coreos.com": "prometheus-operator",
  "postgresql.cnpg.io": "cloudnative-pg",
};

async function validatorOf({ apiVersion, kind }) {
  const folder = `${process.argv[2]}/@kubernetes-models/${PACKAGES[apiVersion.split("/")[0]]}/_schemas`;
  const name = `${apiVersion}${kind}`.replaceAll(/\W/g, "").toLowerCase();
  // Where there are both, .js is no module.
  const file = readdirSync(folder)
    .filter((each) => each.toLowerCase().replace(/\.m?js$/, "") === name)
    .sort()
    .at(-1);
  return (await import(pathToFileURL(`${folder}/${file}`))).validate;
}

/** The value, which takes each of its fields out of `unread` once it is asked for. */
function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const inside = {};
  for (const key of Object.keys(value)) {
    unread.add(`${path}/${key}`);
    inside[key] = watched(value[key], `${path}/${key}`, unread);
  }
  return new Proxy(value, {
    get(target, key) {
      unread.delete(`${path}/${String(key)}`);
      return Object.hasOwn(inside, key) ? inside[key] : target[key];
    },
  });
}

async function faultsOf(resource) {
  const validate = await validatorOf(resource);
  const unread = new Set();
  validate(watched(resource, "", unread));
  const unknown = [...unread].filter((field) => !unread.has(field.slice(0, field.lastIndexOf("/"))));
  return [
    ...(validate.errors ?? []).map((each) => `${each.instancePath} ${each.keyword} ${JSON.stringify(each.params)}`),
    ...unknown.map((field) => `${field} is not known`),
  ];
}

const faults = [];
for (const resource of JSON.parse(readFileSync(0))) faults.push(await faultsOf(resource));
console.log(JSON.stringify(faults));
