# The SBOM of a release as CycloneDX 1.5: the crates in the binary, and what comes with them or with the toolchain.
def purl: "pkg:cargo/\(.name)@\(.version)";
# Some crates have the separator from before SPDX expressions.
def licences: if .license then [{expression: (.license | gsub(" */ *"; " OR "))}] else [] end;
def hashes($checksums): if $checksums[purl] then [{alg: "SHA-256", content: $checksums[purl]}] else [] end;
def crate($checksums): {
    type: "library",
    "bom-ref": purl,
    name, version,
    description: (.description // "" | gsub("\\s+"; " ") | sub("^ "; "") | sub(" $"; "")),
    hashes: hashes($checksums),
    licenses: licences,
    purl: purl
};
def part($name; $version; $licence): {
    type: "library",
    "bom-ref": "pkg:generic/\($name)@\($version)",
    name: $name, version: $version,
    licenses: [$licence],
    purl: "pkg:generic/\($name)@\($version)"
};

# Lines of Cargo.lock, such as `name serde`: a package begins with its name.
(reduce ($lock | split("\n")[] | split(" ")) as [$key, $value] ({};
    if $key == "name" then .name = $value
    elif $key == "version" then .version = $value
    elif $key == "checksum" then .found[purl] = $value
    else . end) | .found) as $checksums
| [
    part("sqlite"; $sqlite; {license: {id: "blessing"}}),
    part("glibc"; $glibc; {license: {id: "LGPL-2.1-or-later"}}),
    part("rust-std"; $rustc; {expression: "MIT OR Apache-2.0"})
  ] as $parts
| [$packages[] | select(.source)] as $crates
| ($packages[] | select(.source | not)) as $own
| {
    bomFormat: "CycloneDX",
    specVersion: "1.5",
    version: 1,
    metadata: {
        timestamp: $time,
        component: ($own | crate({}) + {
            type: "application",
            hashes: [{alg: "SHA-256", content: $hash}],
            properties: [{name: "commit", value: $commit}]
        })
    },
    components: [($crates[] | crate($checksums)), $parts[]],
    dependencies: [
        ($packages[] | {ref: purl, dependsOn: [.uses[] | purl]}
            | if .ref == ($own | purl) then .dependsOn += [$parts[1:][]."bom-ref"] else . end
            | if .ref | startswith("pkg:cargo/libsqlite3-sys@") then .dependsOn += [$parts[0]."bom-ref"] else . end),
        ($parts[] | {ref: ."bom-ref"})
    ]
}
