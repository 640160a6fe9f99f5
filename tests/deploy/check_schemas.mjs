// Checks Kubernetes objects strictly against the schemas in the packages of package.json.
//
//   node check_schemas.mjs NODE_MODULES <OBJECTS
//
// OBJECTS is a JSON array; the answer is a JSON array of as many arrays of complaints. The packages'
// validators say what is missing or of the wrong type, but let fields pass that they do not know.
// Such a field is one that the validator has never looked at, which a Proxy tells.
import {existsSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {pathToFileURL} from 'node:url';

const packages = ['kubernetes-models', '@kubernetes-models/prometheus-operator'];

// The validator of a kind, or null. A kind's module names the file that has it.
async function validatorOf(modules, apiVersion, kind) {
  if (!/^[a-z0-9./]+$/.test(apiVersion) || !/^[A-Za-z]+$/.test(kind)) return null;
  for (const name of packages) {
    const file = join(modules, name, apiVersion, `${kind}.js`);
    if (!existsSync(file)) continue;
    const schema = /["']((?:\.\.\/)+_schemas\/\w+\.js)["']/.exec(readFileSync(file, 'utf8'));
    if (schema === null) throw new Error(`${file} names no schema`);
    return (await import(pathToFileURL(join(file, '..', schema[1])))).validate;
  }
  return null;
}

// `value` as the validator sees it; the paths that it looks at go into `seen`.
function watched(value, path, seen) {
  if (value === null || typeof value !== 'object') return value;
  return new Proxy(value, {
    get(target, key) {
      const field = target[key];
      if (typeof key === 'symbol' || typeof field === 'function') return field;
      seen.add(`${path}/${key}`);
      return watched(field, `${path}/${key}`, seen);
    },
  });
}

function unknownFields(value, path, seen) {
  if (value === null || typeof value !== 'object') return [];
  return Object.keys(value).flatMap((key) => {
    const field = `${path}/${key}`;
    return seen.has(field) ? unknownFields(value[key], field, seen) : [`${field}: unknown field`];
  });
}

async function check(modules, object) {
  const {apiVersion, kind} = object;
  const validate = await validatorOf(modules, String(apiVersion), String(kind));
  if (validate === null) return [`there is no ${kind} in ${apiVersion}`];
  const seen = new Set();
  const complaints = validate(watched(object, '', seen)) ? [] : validate.errors.map((error) => {
    const what = error.params.missingProperty ?? error.params.type ??
        JSON.stringify(error.params);
    return `${error.instancePath}: ${error.keyword} ${what}`;
  });
  return [...complaints, ...unknownFields(object, '', seen)];
}

const objects = JSON.parse(readFileSync(0, 'utf8'));
const answers = [];
for (const object of objects) answers.push(await check(process.argv[2], object));
process.stdout.write(JSON.stringify(answers));
