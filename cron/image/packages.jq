# The packages that are linked into the binary, from `cargo metadata`, each with those that it uses. Its features are those
# of the tests too, so $tree lists the packages: lines such as `serde v1.0.0`, from `cargo tree`.
($tree | split("\n") | map(split(" ") | select(length > 1) | {key: "\(.[0]) \(.[1][1:])", value: true}) | from_entries) as $linked
| [.packages[] | select($linked["\(.name) \(.version)"])] as $packages
| ($packages | map({key: .id, value: {name, version}}) | from_entries) as $names
| (.resolve.nodes | map({
      key: .id,
      value: [.deps[] | select(any(.dep_kinds[]; .kind == null)) | $names[.pkg] // empty] | unique
  }) | from_entries) as $uses
| $packages | sort_by(.name, .version)[]
| . + {uses: $uses[.id]}
