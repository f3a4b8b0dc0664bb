//! Which module uses which, by the paths in the code, resolved as the compiler does: through `use`, `self`, `super`,
//! `crate` and re-exports, to the module that defines the name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use syn::{
    Item, UseTree, Visibility,
    visit::{self, Visit},
};

/// The path of a module: its segments below the crate's root.
pub(crate) type Module = Vec<String>;

/// The modules of a crate, and who uses whom.
#[derive(Default)]
pub(crate) struct Modules {
    names: BTreeMap<Module, Names>,
    /// From a module to those that define what it uses, itself left out.
    pub(crate) uses: BTreeMap<Module, BTreeSet<Module>>,
}

/// The names in a module.
#[derive(Default)]
struct Names {
    defined: BTreeSet<String>,
    /// Names that `use` brings in, each with the path behind it, from the crate's root or from another crate.
    imported: BTreeMap<String, Vec<String>>,
    /// Paths that the code uses, as written; those of re-exports do not count.
    used: Vec<Vec<String>>,
}

impl Modules {
    /// The modules below a folder that is the root of a crate. Tests inside of modules do not count.
    pub(crate) fn of(src: &Path) -> Self {
        let mut files = Vec::new();
        collect(src, &mut Vec::new(), &mut files);
        Self::parse(files)
    }

    /// The modules of these files, each a path and its text.
    pub(crate) fn parse(files: Vec<(Module, String)>) -> Self {
        let mut modules = Self::default();
        for (module, text) in files {
            let file = syn::parse_file(&text).expect("the file parses");
            let mut names = Names::default();
            for item in &file.items {
                names.add(item);
            }
            let mut paths = Paths(&mut names.used);
            let items =
                file.items.iter().filter(|item| !is_test(item) && !matches!(item, Item::Use(_)));
            items.for_each(|item| paths.visit_item(item));
            modules.names.insert(module, names);
        }
        for (module, names) in &modules.names {
            let used = names.used.iter().filter_map(|path| modules.definer(module, path, 0));
            let used = used.filter(|definer| definer != module).collect();
            modules.uses.insert(module.clone(), used);
        }
        modules
    }

    /// The module that defines what this path means inside of `module`; `None` if it is of another crate.
    fn definer(&self, module: &Module, path: &[String], depth: u32) -> Option<Module> {
        assert!(depth < 32, "{path:?} in {module:?} leads nowhere");
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => self.walk(&Vec::new(), rest, depth),
            "self" => self.walk(module, rest, depth),
            "super" => self.walk(&module[..module.len().checked_sub(1)?].to_vec(), rest, depth),
            _ => self.knows(module, first).then(|| self.walk(module, path, depth))?,
        }
    }

    /// Follows a path from a module on.
    fn walk(&self, from: &Module, path: &[String], depth: u32) -> Option<Module> {
        let Some((first, rest)) = path.split_first() else { return Some(from.clone()) };
        if first == "super" {
            return self.walk(&from[..from.len().checked_sub(1)?].to_vec(), rest, depth);
        }
        let child: Module = from.iter().chain([first]).cloned().collect();
        if self.names.contains_key(&child) {
            return self.walk(&child, rest, depth);
        }
        let names = self.names.get(from)?;
        if names.defined.contains(first) {
            return Some(from.clone());
        }
        let imported = names.imported.get(first)?;
        let path: Vec<_> = imported.iter().chain(rest).cloned().collect();
        self.definer(from, &path, depth + 1)
    }

    fn knows(&self, module: &Module, name: &String) -> bool {
        let child: Module = module.iter().chain([name]).cloned().collect();
        let names = &self.names[module];
        self.names.contains_key(&child)
            || names.defined.contains(name)
            || names.imported.get(name).is_some_and(|path| path[0] != *name)
    }

    /// Modules that use each other, directly or not, each group once.
    pub(crate) fn circles(&self) -> Vec<BTreeSet<Module>> {
        let reach: BTreeMap<_, _> =
            self.uses.keys().map(|module| (module, self.reach(module))).collect();
        let mut circles: Vec<BTreeSet<Module>> = Vec::new();
        for (module, reached) in &reach {
            if reached.contains(*module) && !circles.iter().any(|circle| circle.contains(*module)) {
                let mutual = reached.iter().filter(|other| reach[other].contains(*module));
                circles.push(mutual.cloned().collect());
            }
        }
        circles
    }

    /// Who uses whom among these modules.
    pub(crate) fn arrows_in(&self, circle: &BTreeSet<Module>) -> Vec<String> {
        let arrows = circle.iter().flat_map(|module| {
            let used = self.uses[module].intersection(circle);
            used.map(move |used| format!("{} -> {}", module.join("::"), used.join("::")))
        });
        arrows.collect()
    }

    fn reach(&self, module: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut open = vec![module];
        while let Some(next) = open.pop() {
            for used in self.uses.get(next).into_iter().flatten() {
                if reached.insert(used.clone()) {
                    open.push(used);
                }
            }
        }
        reached
    }

    /// The rooms that the modules of a room use: a room is a module of the crate's root, with all below it.
    pub(crate) fn rooms_used_by(&self, room: &str) -> BTreeSet<String> {
        let inside = self
            .uses
            .iter()
            .filter(|(module, _)| module.first().is_some_and(|first| first == room));
        let used = inside.flat_map(|(_, used)| used).filter_map(|module| module.first());
        used.filter(|other| *other != room).cloned().collect()
    }

    /// All rooms.
    pub(crate) fn rooms(&self) -> BTreeSet<String> {
        self.names.keys().filter_map(|module| module.first()).cloned().collect()
    }
}

impl Names {
    fn add(&mut self, item: &Item) {
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Use(item) => {
                let is_reexport = !matches!(item.vis, Visibility::Inherited);
                return self.import(Vec::new(), &item.tree, is_reexport);
            }
            _ => return,
        };
        self.defined.insert(name.to_string());
    }

    fn import(&mut self, before: Vec<String>, tree: &UseTree, is_reexport: bool) {
        let with = |name: &syn::Ident| before.iter().cloned().chain([name.to_string()]).collect();
        match tree {
            UseTree::Path(path) => self.import(with(&path.ident), &path.tree, is_reexport),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(before.clone(), tree, is_reexport));
            }
            UseTree::Name(name) if name.ident == "self" => {
                let last = before.last().expect("a path").clone();
                self.bring(last, before, is_reexport);
            }
            UseTree::Name(name) => {
                self.bring(name.ident.to_string(), with(&name.ident), is_reexport)
            }
            UseTree::Rename(renamed) => {
                self.bring(renamed.rename.to_string(), with(&renamed.ident), is_reexport);
            }
            UseTree::Glob(_) => panic!("a glob hides who uses what: {before:?}"),
        }
    }

    fn bring(&mut self, name: String, path: Vec<String>, is_reexport: bool) {
        if !is_reexport {
            self.used.push(path.clone());
        }
        self.imported.insert(name, path);
    }
}

/// Collects the paths in items.
struct Paths<'a>(&'a mut Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    /// `pub(super)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// True for what is compiled for tests only.
fn is_test(item: &Item) -> bool {
    let Item::Mod(module) = item else { return false };
    module.attrs.iter().any(|attribute| attribute.path().is_ident("cfg"))
}

/// Every file below a folder, with its module; files of tests, of the binary, and the build script are left out.
fn collect(folder: &Path, module: &mut Module, files: &mut Vec<(Module, String)>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let is_rust = path.extension().is_some_and(|ending| ending == "rs");
        if path.is_dir() {
            module.push(name);
            collect(&path, module, files);
            module.pop();
        } else if is_rust && name != "tests" && !(module.is_empty() && is_outside(&name)) {
            let is_parent = ["mod", "lib"].contains(&name.as_str());
            let own = module.iter().cloned().chain((!is_parent).then_some(name)).collect();
            files.push((own, fs::read_to_string(path).expect("a text")));
        }
    }
}

/// True for files at the top that are not of the library.
fn is_outside(name: &str) -> bool {
    ["build", "main", "signals"].contains(&name)
}
