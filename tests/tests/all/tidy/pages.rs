//! Rules for pages: the commands, metrics, files and links that they name exist.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::error::ErrorKind;
use riverlock::args::Args;

use crate::tidy::code::{crate_sources, read, root};

/// Files outside `docs/` that quote commands.
const OTHERS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "docker-compose.yml", "deploy/Dockerfile"];

/// Every page, as a path from the root.
fn pages() -> Vec<String> {
    let mut found: Vec<String> = OTHERS.map(str::to_owned).into();
    for folder in std::fs::read_dir(root()).unwrap().flatten() {
        let name = folder.file_name().to_string_lossy().into_owned();
        if folder.path().join("README.md").exists() {
            found.push(format!("{name}/README.md"));
        }
    }
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|end| end == "md") {
                found.push(entry.path().strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found.dedup();
    assert!(found.len() > 30, "only {found:?} were found: the tests showed nothing");
    found
}

/// A command that a page quotes.
#[derive(Debug)]
struct Quoted {
    place: String,
    words: Vec<String>,
    /// Whether the command is complete; a sentence may name one without its arguments.
    is_whole: bool,
}

/// Every `riverlock …` of a page: in fences, and between backticks.
fn quoted(page: &str, text: &str) -> Vec<Quoted> {
    let mut found = Vec::new();
    let mut is_fence = false;
    for (number, line) in text.lines().enumerate() {
        let place = format!("{page}:{}", number + 1);
        if line.trim_start().starts_with("```") {
            is_fence = !is_fence;
        } else if is_fence || (!page.ends_with(".md") && line.trim_start().starts_with('#')) {
            // A list of commands has a description after each.
            let line = line.trim_start_matches(['#', ' ']).trim_start_matches("$ ");
            let is_list = line.starts_with("riverlock ") && line.contains("   ");
            let command = if is_list { line.split("   ").next().unwrap_or_default() } else { line };
            let at = command.match_indices("riverlock ").map(|(at, _)| at).find(|at| starts_word(command, *at));
            found.extend(at.map(|at| Quoted { place, words: words(&command[at..]), is_whole: !is_list }));
        } else if page.ends_with(".md") {
            for code in line.split('`').skip(1).step_by(2).filter(|code| code.starts_with("riverlock ")) {
                found.push(Quoted { place: place.clone(), words: words(code), is_whole: false });
            }
        }
    }
    found
}

/// Whether a program's name begins there: not in a path, a host name, or after another word of a command such as `docker`.
fn starts_word(line: &str, at: usize) -> bool {
    let before = line[..at].trim_end();
    let is_name = line[..at].ends_with(|c: char| c.is_alphanumeric() || "/-.".contains(c));
    let is_argument = ["-t", "-u", "-o", "ROLE", "DATABASE", "OWNER", "-g"].iter().any(|word| before.ends_with(word));
    !is_name && !is_argument
}

/// The words of a command up to the end of the command, without quotes; placeholders become words.
fn words(command: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quote, mut placeholder) = (None, false);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '<') => placeholder = true,
            (None, '>') if placeholder => {
                placeholder = false;
                words.last_mut().unwrap().push('x');
            }
            (None, _) if placeholder => {}
            (None, '|' | ';' | '#' | '>' | ')' | '…' | '`') => break,
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_quoted_command_exists() {
    let mut looked_at = 0;
    // The page of the commands' help is generated from them.
    for page in pages().into_iter().filter(|page| page != "docs/reference/cli.md") {
        for quoted in quoted(&page, &read(&root().join(&page))) {
            looked_at += 1;
            let Err(error) = Args::parsed(&quoted.words) else { continue };
            // Missing arguments are allowed in a sentence, and placeholders are invalid values.
            let is_named = matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::ValueValidation
            );
            let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            assert!(is_help || (is_named && !quoted.is_whole), "{}: {:?}: {error}", quoted.place, quoted.words);
        }
    }
    assert!(looked_at > 80, "only {looked_at} commands were found: the test showed nothing");
}

#[test]
fn quoted_commands_are_found() {
    let text = "Run `riverlock audit`, then `riverlock orders show ID`.\n```\n$ riverlock audit | head\nsudo -u riverlock riverlock --config x setup  # now\nriverlock orders …      all of it\n/usr/bin/riverlock x\n```\n";
    let found: Vec<String> = quoted("a.md", text).into_iter().map(|quoted| quoted.words.join(" ")).collect();
    assert_eq!(
        found,
        [
            "riverlock audit",
            "riverlock orders show ID",
            "riverlock audit",
            "riverlock --config x setup",
            "riverlock orders"
        ]
    );
    assert_eq!(words("riverlock a 'b c' --d <e f> > g"), ["riverlock", "a", "b c", "--d", "x"]);
}

#[test]
fn every_metric_that_a_page_names_exists() {
    let code: String = crate_sources().iter().map(|file| read(file)).collect();
    // Names of schemas that begin like a metric.
    let others = ["riverlock_rebuild", "riverlock_before"];
    let mut looked_at = 0;
    for page in pages().iter().filter(|page| page.ends_with(".md")) {
        let text = read(&root().join(page));
        // Output of commands is not searched.
        let prose = text.split("```").step_by(2);
        let examples = text.split("```").skip(1).step_by(2).filter(|block| block.contains("/metrics"));
        for word in prose.chain(examples).flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        {
            let is_metric = word.starts_with("riverlock_");
            if !is_metric || others.iter().any(|other| word.starts_with(other)) {
                continue;
            }
            looked_at += 1;
            let exists =
                code.contains(&format!("\"{word}\"")) || code.contains(&format!("\"{}", word.trim_end_matches('_')));
            assert!(exists, "{page} names the metric {word}, which no crate publishes");
        }
    }
    assert!(looked_at > 10, "only {looked_at} names were found: the test showed nothing");
}

/// Every link of a page to a file: the link, the file, and the heading.
fn links(page: &str) -> Vec<(String, PathBuf, String)> {
    let text = read(&root().join(page));
    let folder = root().join(page).parent().unwrap().to_path_buf();
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    let files = targets.filter(|link| !link.starts_with("http") && !link.contains(' '));
    files
        .map(|link| {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { root().join(page) } else { folder.join(file) };
            (link.to_owned(), target, heading.to_owned())
        })
        .collect()
}

#[test]
fn links_between_pages_are_valid() {
    let mut linked = BTreeSet::new();
    let pages = pages();
    let pages: Vec<&str> = pages.iter().map(String::as_str).filter(|page| page.ends_with(".md")).collect();
    for page in pages.iter().chain(&["CHANGELOG.md"]) {
        for (link, target, heading) in links(page) {
            let target =
                target.canonicalize().unwrap_or_else(|_| panic!("{page} links to {link}, which does not exist"));
            assert!(heading.is_empty() || has_heading(&target, &heading), "{page} links to {link}: no such heading");
            if target != root().join(page).canonicalize().unwrap() {
                linked.insert(target);
            }
        }
    }
    assert!(linked.len() > 30, "only {linked:?} are linked: the test showed nothing");
    for page in pages.iter().filter(|page| page.starts_with("docs/")) {
        let is_index = *page == "docs/README.md";
        assert!(is_index || linked.contains(&root().join(page).canonicalize().unwrap()), "no page links to {page}");
    }
}

#[test]
fn every_source_file_that_a_page_names_exists() {
    let mut looked_at = 0;
    for page in pages().iter().filter(|page| page.ends_with(".md")) {
        let text = read(&root().join(page));
        for name in
            text.split('`').filter(|name| name.ends_with(".rs") && name.contains('/') && !name.contains([' ', '*']))
        {
            looked_at += 1;
            assert!(root().join(name).exists(), "{page} names {name}, which does not exist");
        }
    }
    assert!(looked_at > 10, "only {looked_at} files are named: the test showed nothing");
}

#[test]
fn pages_use_the_terms_of_the_glossary() {
    /// Words that also have an ordinary meaning.
    const ORDINARY: [&str; 5] = ["away", "behind", "down", "letter", "place"];
    let glossary = read(&root().join("docs/glossary.md"));
    let rows = glossary.lines().filter(|line| line.starts_with("| **"));
    let former = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next()).flat_map(|cell| cell.split(", "));
    let former: Vec<&str> = former.map(str::trim).filter(|word| !word.is_empty() && !ORDINARY.contains(word)).collect();
    assert!(former.len() > 20, "only {former:?} were found: the test showed nothing");
    let mut files: Vec<String> = pages().into_iter().filter(|page| page.ends_with(".md")).collect();
    // The descriptions of metrics are generated from the code.
    files.retain(|page| page != "docs/glossary.md" && page != "docs/reference/metrics.md");
    let rules = std::fs::read_dir(root().join("deploy/prometheus/rules")).unwrap().flatten();
    files.extend(rules.map(|file| file.path().strip_prefix(root()).unwrap().display().to_string()));
    for file in files {
        let text = read(&root().join(&file)).to_lowercase();
        // Output of commands is not checked here.
        for prose in text.split("```").step_by(2) {
            let words =
                prose.split(|c: char| !c.is_alphanumeric() && c != '-' && c != '_').collect::<Vec<_>>().join(" ");
            for word in &former {
                assert!(
                    !format!(" {words} ").contains(&format!(" {word} ")),
                    "{file}: the glossary has another term for {word}"
                );
            }
        }
    }
}

/// Whether a page has a heading with this anchor, as GitHub makes them.
fn has_heading(page: &Path, anchor: &str) -> bool {
    let text = read(page);
    let mut headings =
        text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#').trim());
    headings.any(|heading| {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c))
            .collect::<String>();
        kept.replace(' ', "-") == anchor
    })
}

#[test]
fn only_out_rs_prints() {
    let files = crate_sources();
    assert!(files.len() > 100);
    for file in files {
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        let is_test = name.contains("/tests") || name.ends_with("tests.rs");
        if name == "cli/src/terminal/out.rs" || is_test {
            continue;
        }
        let text = read(&file);
        for macro_name in ["println!", "eprintln!", "print!", "eprint!", "std::io::stdout().lock"] {
            let found =
                text.match_indices(macro_name).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric()));
            assert!(!found, "{name} has {macro_name}; use `out`");
        }
    }
}
