//! The rules of the source tree: no circles between files or folders, no crowded folders.
//!
//! The files are read as text, so that the test needs no compiler: `use` declarations and paths that begin with `crate`,
//! `super` or `self` are references, re-exports are followed to the file that defines the name, and tests are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use super::code::{read, root};

/// Most source files in one folder, unit tests not counted.
const FOLDER_FILES_MAX: usize = 12;

/// Longest chain of re-exports that is followed.
const EXPORTS_MAX: usize = 8;

/// A module's path inside its crate, as its segments; empty for the crate's root.
type Module = Vec<String>;

/// The nodes of a graph, each with the nodes that it refers to.
type Edges<T> = BTreeMap<T, BTreeSet<T>>;

/// One crate's modules with their source text, without comments and unit tests.
struct Crate {
    /// The crate's folder.
    name: String,
    modules: BTreeMap<Module, Source>,
}

/// One source file.
struct Source {
    file: PathBuf,
    /// Paths that the file refers to, written from the crate's root.
    references: BTreeSet<Vec<String>>,
    /// Names that the file re-exports, with their paths.
    exports: BTreeMap<String, Vec<String>>,
}

/// The source folders of the workspace's crates.
fn source_folders() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root())
        .unwrap()
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.path().join("src"))
        .filter(|source| source.join("lib.rs").exists())
        .collect();
    folders.sort();
    folders
}

fn is_test(path: &Path) -> bool {
    let name = path.file_stem().unwrap().to_string_lossy();
    name == "tests" || name.ends_with("_tests")
}

fn source_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if is_test(&path) {
            continue;
        }
        if path.is_dir() {
            source_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module_of(source: &Path, file: &Path) -> Module {
    let relative = file.strip_prefix(source).unwrap().with_extension("");
    let mut segments: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(segments.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        segments.pop();
    }
    segments
}

/// The code of a file: without comments, and without what follows its unit tests.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

impl Crate {
    fn read(source: &Path) -> Self {
        let mut files = Vec::new();
        source_files(source, &mut files);
        let modules: BTreeMap<Module, PathBuf> =
            files.into_iter().map(|file| (module_of(source, &file), file)).collect();
        let names: BTreeSet<Module> = modules.keys().cloned().collect();
        let read = |(module, file): (Module, PathBuf)| {
            let text = code(&read(&file));
            let source = Source::read(&module, file, &text, &names);
            (module, source)
        };
        let name = source.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        Self { name, modules: modules.into_iter().map(read).collect() }
    }

    /// The file that defines what a path names: the longest module, and where that re-exports the next name, further on.
    fn definition(&self, path: &[String], depth: usize) -> Option<&Module> {
        let (module, source) = (0..=path.len()).rev().find_map(|end| self.modules.get_key_value(&path[..end]))?;
        let Some(name) = path.get(module.len()) else { return Some(module) };
        match source.exports.get(name) {
            Some(target) if depth < EXPORTS_MAX => {
                let target: Vec<String> = target.iter().chain(&path[module.len() + 1..]).cloned().collect();
                self.definition(&target, depth + 1)
            }
            _ => Some(module),
        }
    }

    fn edges(&self) -> Edges<&Module> {
        let targets = |source: &Source| source.references.iter().filter_map(|path| self.definition(path, 0)).collect();
        let mut edges: Edges<&Module> = self.modules.iter().map(|(module, source)| (module, targets(source))).collect();
        for (module, targets) in &mut edges {
            targets.remove(module);
        }
        edges
    }

    /// Groups of files that refer, directly or not, to each other.
    fn file_circles(&self) -> Vec<String> {
        let circles = circles(&self.edges());
        circles.iter().map(|circle| self.names(circle.iter().copied())).collect()
    }

    /// Groups of sibling folders that refer to each other.
    ///
    /// A folder refers to what any file below it refers to. A folder and the file that declares its modules are one. Sibling
    /// files, such as `config.rs` and `metrics.rs`, do not count: they combine what the folders define.
    fn folder_circles(&self) -> Vec<String> {
        let is_folder = |module: &[String]| self.modules.keys().any(|other| is_below(other, module));
        let mut levels: BTreeMap<&[String], Edges<&[String]>> = BTreeMap::new();
        for (from, targets) in self.edges() {
            for to in targets {
                let shared = from.iter().zip(to).take_while(|(one, other)| one == other).count();
                if shared == from.len() || shared == to.len() {
                    continue;
                }
                let (one, other) = (&from[..=shared], &to[..=shared]);
                if is_folder(one) && is_folder(other) {
                    let level = levels.entry(&from[..shared]).or_default();
                    level.entry(one).or_default().insert(other);
                    level.entry(other).or_default();
                }
            }
        }
        let circles = levels.values().flat_map(circles);
        let list =
            |circle: Vec<&[String]>| circle.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(", ");
        circles.map(|circle| format!("{}: {}", self.name, list(circle))).collect()
    }

    fn names<'a>(&self, modules: impl Iterator<Item = &'a Module>) -> String {
        let files = modules.map(|module| self.modules[module].file.strip_prefix(root()).unwrap().display().to_string());
        files.collect::<Vec<_>>().join(", ")
    }
}

/// Groups of nodes that reach each other.
fn circles<T: Ord + Copy>(edges: &Edges<T>) -> BTreeSet<Vec<T>> {
    let reachable = |from: &T| {
        let mut seen = BTreeSet::new();
        let mut open: Vec<T> = edges[from].iter().copied().collect();
        while let Some(node) = open.pop() {
            if seen.insert(node) {
                open.extend(&edges[&node]);
            }
        }
        seen
    };
    let reach: Edges<T> = edges.keys().map(|node| (*node, reachable(node))).collect();
    let on_circles = reach.iter().filter(|(node, others)| others.contains(node));
    on_circles
        .map(|(node, others)| others.iter().copied().filter(|other| reach[other].contains(node)).collect())
        .collect()
}

fn is_below(module: &Module, folder: &[String]) -> bool {
    module.len() > folder.len() && module.starts_with(folder)
}

impl Source {
    fn read(module: &Module, file: PathBuf, text: &str, modules: &BTreeSet<Module>) -> Self {
        let mut source = Self { file, references: BTreeSet::new(), exports: BTreeMap::new() };
        let (mut rest, mut code) = (text, String::new());
        while let Some(at) = rest.find("use ") {
            let before = &rest[..at];
            code.push_str(before);
            rest = &rest[at + 4..];
            let line = before.rsplit('\n').next().unwrap_or_default().trim();
            let is_public = line.starts_with("pub");
            if !(line.is_empty() || is_public) {
                continue;
            }
            let end = rest.find(';').unwrap_or(rest.len());
            let mut leaves = Vec::new();
            expand(&rest[..end], &[], &mut leaves);
            rest = &rest[end..];
            for (path, name) in leaves {
                let Some(path) = absolute(module, &path, modules) else { continue };
                if is_public && module_is_parent(module, modules) {
                    source.exports.insert(name, path);
                } else {
                    source.references.insert(path);
                }
            }
        }
        code.push_str(rest);
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in code.match_indices(start) {
                let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                if code[..at].ends_with(is_path) {
                    continue;
                }
                let path: String = code[at..].chars().take_while(|c| is_path(*c)).collect();
                let path: Vec<String> = path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
                source.references.extend(absolute(module, &path, modules).filter(|path| !path.is_empty()));
            }
        }
        source
    }
}

/// Whether there are modules below it, whose names its `pub use` exports.
fn module_is_parent(module: &Module, modules: &BTreeSet<Module>) -> bool {
    modules.iter().any(|other| is_below(other, module))
}

/// A path from the crate's root; `None` where it leads to another crate.
fn absolute(module: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Vec<String>> {
    let first = path.first()?;
    match first.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some(module.iter().chain(&path[1..]).cloned().collect()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let parent = &module[..module.len().checked_sub(ups)?];
            Some(parent.iter().chain(&path[ups..]).cloned().collect())
        }
        _ => {
            let child: Module = module.iter().chain([first]).cloned().collect();
            modules.contains(&child).then(|| module.iter().chain(path).cloned().collect())
        }
    }
}

/// Splits a `use` tree into its paths, each with the name that it gets.
fn expand(tree: &str, prefix: &[String], leaves: &mut Vec<(Vec<String>, String)>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let mut path = prefix.to_vec();
        path.extend(tree[..open].split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
        let inner = tree[open + 1..].trim_end().strip_suffix('}').unwrap_or_else(|| &tree[open + 1..]);
        let (mut depth, mut start) = (0_usize, 0);
        for (at, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    expand(&inner[start..at], &path, leaves);
                    start = at + 1;
                }
                _ => {}
            }
        }
        expand(&inner[start..], &path, leaves);
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
        let mut segments = prefix.to_vec();
        segments.extend(path.split("::").map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned));
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self" || last == "*") {
            segments.pop();
        }
        let name =
            if alias.is_empty() { segments.last().cloned().unwrap_or_default() } else { alias.trim().to_owned() };
        leaves.push((segments, name));
    }
}

/// Every crate, with imports found in it.
fn crates() -> Vec<Crate> {
    let folders = source_folders();
    assert!(folders.len() > 6, "only {} crates were found", folders.len());
    let read = |source: &PathBuf| {
        let package = Crate::read(source);
        assert!(package.edges().values().any(|targets| !targets.is_empty()), "{}: no imports found", source.display());
        package
    };
    folders.iter().map(read).collect()
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let circles: Vec<String> = crates().iter().flat_map(Crate::file_circles).collect();
    assert!(circles.is_empty(), "files that import each other in a circle:\n  {}", circles.join("\n  "));
}

#[test]
fn folders_do_not_import_each_other_in_circles() {
    let circles: Vec<String> = crates().iter().flat_map(Crate::folder_circles).collect();
    assert!(circles.is_empty(), "folders that import each other in a circle:\n  {}", circles.join("\n  "));
}

#[test]
fn circles_are_found() {
    let module = |path: &str| path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect::<Module>();
    let files = [
        ("", "mod a;\nmod b;\npub use a::Exported;"),
        ("a", "use std::fmt;"),
        ("a::inner", "use crate::{b, c::Name}; // use crate::d::Comment;"),
        ("b", "fn f() { crate::c::call() }"),
        ("b::inner", "use crate::{Exported, a::inner::{self, x as y}};"),
        ("c", "use crate::{\n    b::{self, inner::z},\n};"),
        ("d", "use std::fmt; use super::a;\n#[cfg(test)]\nmod tests { use crate::d; }"),
    ];
    let names: BTreeSet<Module> = files.iter().map(|(path, _)| module(path)).collect();
    let source =
        |path: &str, text: &str| Source::read(&module(path), root().join(format!("{path}.rs")), &code(text), &names);
    let modules = files.iter().map(|(path, text)| (module(path), source(path, text))).collect();
    let package = Crate { name: "x".to_owned(), modules };
    assert_eq!(package.file_circles(), ["a::inner.rs, b.rs, b::inner.rs, c.rs"]);
    assert_eq!(package.folder_circles(), ["x: a, b"]);
}

#[test]
fn no_folder_is_crowded() {
    let mut crowded = Vec::new();
    for source in source_folders().into_iter().chain([root().join("tests/tests/all")]) {
        let mut files = Vec::new();
        source_files(&source, &mut files);
        assert!(!files.is_empty(), "{} is empty", source.display());
        let mut folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for file in files {
            *folders.entry(file.parent().unwrap().to_path_buf()).or_default() += 1;
        }
        let over = folders.into_iter().filter(|(_, files)| *files > FOLDER_FILES_MAX);
        crowded.extend(over.map(|(folder, files)| format!("{}: {files} files", folder.display())));
    }
    assert!(crowded.is_empty(), "folders with more than {FOLDER_FILES_MAX} files:\n  {}", crowded.join("\n  "));
}
