// Classifies texts with transformers.js, offline: node node.mjs MODULES FOLDER NAME DTYPE TEXT...
import { pathToFileURL } from "node:url";

const [modules, folder, name, dtype, ...texts] = process.argv.slice(2);
const { env, pipeline } = await import(pathToFileURL(`${modules}/@huggingface/transformers/dist/transformers.node.mjs`));
env.allowRemoteModels = false;
env.localModelPath = folder;
const classify = await pipeline("text-classification", name, { dtype });
console.log(JSON.stringify(await classify(texts, { top_k: null })));
