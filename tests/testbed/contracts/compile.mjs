// Compiles the contracts of this folder into artifacts/, which are committed so that Rust needs no Solidity compiler.
//
//   node compile.mjs           writes artifacts/<Name>.json
//   node compile.mjs --check   writes nothing; names what differs and exits 1
//
// The npm package `solc` is taken from the node_modules folder that TESTBED_NODE_MODULES names, or else from
// target/testbed/solc/node_modules of the workspace (the script `check` next to this file puts it there).
// SPDX-License-Identifier: MIT OR Apache-2.0

import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const SOLC = "0.8.37";
const here = dirname(fileURLToPath(import.meta.url));
const folder = resolve(process.env.TESTBED_NODE_MODULES ?? join(here, "../../../target/testbed/solc/node_modules"));

function fail(message) {
  console.error(message);
  process.exit(1);
}

if (!existsSync(join(folder, "solc"))) fail("the npm package solc is missing: run contracts/check once, it installs it");
const solc = createRequire(join(folder, "resolve-from-here.js"))("solc");
if (!solc.version().startsWith(`${SOLC}+`)) fail(`these artifacts are made by solc ${SOLC}, not ${solc.version()}`);

const files = readdirSync(here).filter((file) => file.endsWith(".sol")).sort();
const input = {
  language: "Solidity",
  sources: Object.fromEntries(files.map((file) => [file, { content: readFileSync(join(here, file), "utf8") }])),
  settings: {
    evmVersion: "shanghai",
    optimizer: { enabled: true, runs: 200 },
    // No hash of the sources in the code: a changed comment changes nothing.
    metadata: { bytecodeHash: "none", appendCBOR: false },
    outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object", "storageLayout"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const complaints = (output.errors ?? []).filter(({ severity }) => severity !== "info");
if (complaints.length > 0) fail(complaints.map(({ formattedMessage }) => formattedMessage).join("\n"));

const artifacts = join(here, "artifacts");
const check = process.argv.includes("--check");
const differing = [];
const wanted = new Set();
mkdirSync(artifacts, { recursive: true });
for (const file of files) {
  const contract = file.replace(/\.sol$/, "");
  const { abi, evm, storageLayout } = output.contracts[file][contract];
  const text = `${JSON.stringify(
    {
      contract,
      solc: SOLC,
      abi,
      deployedBytecode: `0x${evm.deployedBytecode.object}`,
      // The types' names are left out: they hold numbers that change with every edit.
      storageLayout: storageLayout.storage.map(({ label, slot, offset }) => ({ label, slot, offset })),
    },
    null,
    1,
  )}\n`;
  const name = `${contract}.json`;
  const path = join(artifacts, name);
  wanted.add(name);
  if (!check) writeFileSync(path, text);
  else if (!existsSync(path) || readFileSync(path, "utf8") !== text) differing.push(`artifacts/${name}`);
}
for (const name of readdirSync(artifacts)) if (!wanted.has(name)) differing.push(`artifacts/${name} (no such contract)`);
if (differing.length > 0) fail(`not what the sources compile to: ${differing.join(", ")}; run compile.mjs and commit`);
