// Compiles the contracts of this folder into artifacts/, and the programs of ethtally's packed reader,
// src/read/packed.yul and packed_parts.yul, into .hex files beside them. The results are committed so that Rust needs no
// Solidity compiler.
//
//   node compile.mjs           writes artifacts/<Name>.json and the .hex files
//   node compile.mjs --check   writes nothing; names what differs and exits 1
//
// Uses the npm package `solc` in the node_modules folder named by TESTBED_NODE_MODULES, or else in
// target/testbed/solc/node_modules of the workspace (where the script `check` installs it).
// SPDX-License-Identifier: MIT OR Apache-2.0

import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

const SOLC = "0.8.37";
const here = dirname(fileURLToPath(import.meta.url));
const workspace = resolve(here, "../../..");
const installed = join(workspace, "target/testbed/solc/node_modules");
const folder = resolve(process.env.TESTBED_NODE_MODULES ?? installed);

function fail(message) {
  console.error(message);
  process.exit(1);
}

if (!existsSync(join(folder, "solc"))) fail("the npm package solc is missing: run contracts/check to install it");
const solc = createRequire(join(folder, "resolve-from-here.js"))("solc");
if (!solc.version().startsWith(`${SOLC}+`)) fail(`solc ${SOLC} makes the committed code, not ${solc.version()}`);

const check = process.argv.includes("--check");
const differing = [];

/// The compiled contracts of each file; any complaint of the compiler ends the script.
function compile(language, sources, settings) {
  const optimizer = { enabled: true, runs: 200 };
  const input = { language, sources, settings: { optimizer, ...settings } };
  const output = JSON.parse(solc.compile(JSON.stringify(input)));
  const complaints = (output.errors ?? []).filter(({ severity }) => severity !== "info");
  if (complaints.length > 0) fail(complaints.map(({ formattedMessage }) => formattedMessage).join("\n"));
  return output.contracts;
}

/// Writes the file, or notes where it differs.
function put(path, text) {
  if (!check) writeFileSync(path, text);
  else if (!existsSync(path) || readFileSync(path, "utf8") !== text) differing.push(relative(workspace, path));
}

const source = (path) => ({ content: readFileSync(path, "utf8") });

const files = readdirSync(here).filter((file) => file.endsWith(".sol")).sort();
const sources = Object.fromEntries(files.map((file) => [file, source(join(here, file))]));
const contracts = compile("Solidity", sources, {
  evmVersion: "shanghai",
  // No hash of the sources in the code: a changed comment changes nothing.
  metadata: { bytecodeHash: "none", appendCBOR: false },
  outputSelection: { "*": { "*": ["abi", "evm.deployedBytecode.object", "storageLayout"] } },
});

const artifacts = join(here, "artifacts");
const wanted = new Set();
mkdirSync(artifacts, { recursive: true });
for (const file of files) {
  const contract = file.replace(/\.sol$/, "");
  const { abi, evm, storageLayout } = contracts[file][contract];
  const text = `${JSON.stringify(
    {
      contract,
      solc: SOLC,
      abi,
      deployedBytecode: `0x${evm.deployedBytecode.object}`,
      // Without the types' names, which contain numbers that change with every edit.
      storageLayout: storageLayout.storage.map(({ label, slot, offset }) => ({ label, slot, offset })),
    },
    null,
    1,
  )}\n`;
  const name = `${contract}.json`;
  wanted.add(name);
  put(join(artifacts, name), text);
}
for (const name of readdirSync(artifacts)) {
  if (!wanted.has(name)) differing.push(`${relative(workspace, join(artifacts, name))} (no such contract)`);
}

// The object has no code that deploys it: its code is what runs.
for (const name of ["packed", "packed_parts"]) {
  const file = `${name}.yul`;
  const reader = compile("Yul", { [file]: source(join(workspace, "src/read", file)) }, {
    evmVersion: "london",
    outputSelection: { "*": { "*": ["evm.bytecode.object"] } },
  });
  put(join(workspace, "src/read", `${name}.hex`), `${reader[file][name].evm.bytecode.object}\n`);
}

if (differing.length > 0) {
  fail(`not what the sources compile to: ${differing.join(", ")}; run compile.mjs and commit`);
}
