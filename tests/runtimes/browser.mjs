// Shows a page in Chromium without a network, and prints its text: node browser.mjs MODULES FOLDER CHROMIUM PAGE
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, exports_, executablePath, pageFile] = process.argv.slice(2);
const { chromium } = await import(pathToFileURL(`${modules}/playwright-core/index.mjs`));
const types = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".wasm": "application/wasm" };
const server = createServer(async (request, response) => {
  const path = normalize(decodeURIComponent(new URL(request.url, "http://x").pathname));
  const file = path === "/" ? pageFile : path.startsWith("/node_modules/") ? join(modules, path.slice(14)) : path.startsWith("/runs/mine/") ? join(exports_, path.slice(11)) : null;
  try {
    const body = await readFile(file);
    response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" });
    response.end(body);
  } catch { response.writeHead(404); response.end(); }
}).listen(0, "127.0.0.1");
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
const page = await browser.newPage(); const foreign = [];
page.on("console", (message) => console.error("console:", message.text().slice(0, 300)));
page.on("requestfailed", (r) => console.error("failed", r.url()));
await page.route("**/*", (route) => { if (new URL(route.request().url()).hostname === "127.0.0.1" || route.request().url().startsWith("blob:")) return route.continue(); foreign.push(route.request().url()); return route.abort(); });
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.waitForFunction(() => document.body.textContent.trim() !== "", null, { timeout: 240000 });
console.log(JSON.stringify({ text: await page.evaluate(() => document.body.textContent), foreign }));
await browser.close(); server.close();
