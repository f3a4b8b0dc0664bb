// Holds a snapshot's root and proofs against OpenZeppelin's library, which tests/testbed/install-merkle-tree installs.
//
//   node merkle-tree.cjs root FILE.csv       prints the root of StandardMerkleTree over the rows
//   node merkle-tree.cjs verify RESULT.json  prints whether StandardMerkleTree.verify accepts the result of --proof --json
const fs = require("node:fs");
const path = require("node:path");

const library = path.join(__dirname, "../../target/testbed/merkle-tree/node_modules/@openzeppelin/merkle-tree");
const { StandardMerkleTree } = require(library);

const encoding = ["address", "uint256"];
const [mode, file] = process.argv.slice(2);
const text = fs.readFileSync(file, "utf8");
if (mode === "root") {
    const rows = text.trim().split("\n").slice(1).map((line) => line.split(","));
    console.log(StandardMerkleTree.of(rows, encoding).root);
} else {
    const { root, wallet, total, proof } = JSON.parse(text);
    console.log(StandardMerkleTree.verify(root, encoding, [wallet, total], proof));
}
