// Classifies texts in a page of Chromium, offline: node browser.mjs MODULES FOLDER NAME CHROMIUM TEXT...
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, exports_, name, executablePath, ...texts] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(`${modules}/playwright-core/index.mjs`));
const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".wasm": "application/wasm" };
const page_ = `<!doctype html><meta charset="utf-8"><title>tinybert</title><script type="importmap">{"imports": {"onnxruntime-common": "/lib/onnxruntime-common/dist/esm/index.js", "onnxruntime-web": "/lib/onnxruntime-web/dist/ort.bundle.min.mjs", "onnxruntime-web/webgpu": "/lib/onnxruntime-web/dist/ort.webgpu.bundle.min.mjs"}}</script><script type="module">
import { env, pipeline } from "/lib/@huggingface/transformers/dist/transformers.min.js";
env.allowRemoteModels = false; env.allowLocalModels = true; env.localModelPath = "/models/"; env.useBrowserCache = false;
env.backends.onnx.wasm.wasmPaths = "/lib/onnxruntime-web/dist/"; env.backends.onnx.wasm.numThreads = 1;
try {
  const classify = await pipeline("text-classification", "${name}");
  window.result = await classify(${JSON.stringify(texts)}, { top_k: null });
} catch (error) { window.result = "ERROR " + error; }
</script>`;
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
  const file = path.startsWith("/lib/") ? join(modules, path.slice(5)) : path.startsWith("/models/") ? join(exports_, path.slice(8)) : null;
  try {
    const body = path === "/" ? page_ : await readFile(file);
    response.writeHead(200, { "content-type": types[extname(path) || ".html"] ?? "application/octet-stream" });
    response.end(body);
  } catch { response.writeHead(404); response.end(); }
}).listen(0, "127.0.0.1");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
const page = await browser.newPage(); const foreign = [];
page.on("console", (message) => console.error("console:", message.text().slice(0, 300)));
page.on("requestfailed", (r) => console.error("failed", r.url()));
await page.route("**/*", (route) => { if (new URL(route.request().url()).hostname === "127.0.0.1" || route.request().url().startsWith("blob:")) return route.continue(); foreign.push(route.request().url()); return route.abort(); });
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.waitForFunction(() => window.result !== undefined, null, { timeout: 240000 });
console.log(JSON.stringify({ result: await page.evaluate(() => window.result), foreign }));
await browser.close(); server.close();
