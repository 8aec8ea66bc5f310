//! The arrows between layers and the house rules, as a test: `file:line: what, use what`.
//!
//! The arrows are read from the table in `src/lib.rs`: a module may use those above its row; nobody where the row
//! says "anything else", and those alone that follow where it says "anything but". Code is looked at without its
//! comments and strings, so that a rule may be named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt;
use std::fs;
use std::path::Path;

/// The most characters of a line. rustfmt's `max_width`, which leaves comments and strings alone.
const LINE_CHARS_MAX: usize = 120;

/// Where sockets, clocks and threads are unknown: input is a value and `now`, output is a value.
const SANS_IO: [&str; 4] = ["src/protocol/", "src/presence/", "src/shard/core", "src/tls/session.rs"];

/// Paths that sans-IO code must not name, and what it uses instead.
const IO_PATHS: [(&str, &str); 15] = [
    ("mio", "an Input and an Output of the core"),
    ("socket2", "an Input and an Output of the core"),
    ("libc", "src/sys.rs, called by the driver"),
    ("crossbeam_channel", "an Output that the driver sends"),
    ("std::net::TcpStream", "an Input and an Output of the core"),
    ("std::net::TcpListener", "an Input and an Output of the core"),
    ("std::net::UdpSocket", "an Input and an Output of the core"),
    ("std::os::fd", "a ConnectionId"),
    ("std::os::unix", "a ConnectionId"),
    ("std::fs", "a value that is handed in"),
    ("std::thread", "a value that is handed in"),
    ("std::sync::mpsc", "an Output that the driver sends"),
    ("std::time::Instant", "the `now` that is handed in"),
    ("std::time::SystemTime", "the `now` that is handed in"),
    ("std::process", "an error that is returned"),
];

/// Where the clock may be read.
const CLOCK_READERS: [&str; 8] = [
    "src/shard/driver/clock.rs",
    "src/auth/command.rs",
    "src/auth/key_ring.rs",
    "src/auth/service.rs",
    "src/control/",
    "src/load/",
    "src/server.rs",
    "src/server/",
];

/// Arrows that the order of the table's rows alone would allow.
const FORBIDDEN_ARROWS: [(&str, &str, &str); 6] = [
    ("shard::core", "tls", "plaintext: the driver's sockets encrypt"),
    ("shard::driver", "protocol::message", "the core, which knows what messages mean"),
    ("load", "server", "the protocol alone: the load generator is a client"),
    ("load", "shard", "the protocol alone: the load generator is a client"),
    ("load", "control", "the protocol alone: the load generator is a client"),
    ("load", "presence", "the protocol alone: the load generator is a client"),
];

/// Words that put work off; in two halves each, so that this file does not hold them.
const PUT_OFF: [&str; 4] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];

/// What belongs to one machine or one mirror and not into the project, with what to write instead.
const FOREIGN_TEXT: [(&str, &str); 10] = [
    (concat!("/wo", "rk/"), "a path relative to the project"),
    (concat!("/ro", "ot/"), "a path relative to the project"),
    (concat!("/ho", "me/"), "a path relative to the project"),
    (concat!("/Use", "rs/"), "a path relative to the project"),
    (concat!("index.", "crates.io"), "the registry's ordinary client"),
    (concat!("static.", "crates.io"), "the registry's ordinary client"),
    (concat!("registry.", "npmjs"), "the registry's ordinary client"),
    (concat!("registry.", "yarnpkg"), "the registry's ordinary client"),
    (concat!("files.python", "hosted"), "the registry's ordinary client"),
    (concat!("pypi.", "org"), "the registry's ordinary client"),
];

/// Folders that are made, not written.
const MADE_FOLDERS: [&str; 7] = ["target", ".git", ".tools", "node_modules", "__pycache__", "corpus", "artifacts"];

#[derive(Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    line: usize,
    what: String,
    instead: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}, use {}", self.file, self.line, self.what, self.instead)
    }
}

/// The findings of one file, gathered.
struct Findings<'a> {
    file: &'a str,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    fn of(file: &'a str) -> Self {
        Self { file, found: Vec::new() }
    }

    fn add(&mut self, line: usize, what: impl Into<String>, instead: impl Into<String>) {
        self.found.push(Finding { file: self.file.to_owned(), line, what: what.into(), instead: instead.into() });
    }
}

#[test]
fn the_project_keeps_its_house_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(root, root, &mut files);
    assert!(files.len() > 10, "only {} files found below {}", files.len(), root.display());
    let map = Layers::read(&fs::read_to_string(root.join("src/lib.rs")).unwrap());
    let mut found = Vec::new();
    for file in files {
        // What is not UTF-8 is no text: the seeds of the fuzz targets.
        let Ok(text) = fs::read_to_string(root.join(&file)) else { continue };
        found.extend(check_text(&file, &text));
        if file.ends_with(".rs") {
            found.extend(check_source(&file, &text, &map));
        }
        if file.ends_with("Cargo.toml") {
            found.extend(check_manifest(&file, &text));
        }
    }
    let report: Vec<String> = found.iter().map(Finding::to_string).collect();
    assert!(report.is_empty(), "{} house rules are broken:\n{}", report.len(), report.join("\n"));
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        // A file of such a name stands for the folder: `.git` does in a worktree.
        if MADE_FOLDERS.contains(&name.as_str()) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            collect(root, &entry.path(), files);
        } else if name != "Cargo.lock" {
            files.push(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
}

/// Rules for every file that is text.
fn check_text(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Findings::of(file);
    let is_script = file.starts_with("tests/") && !file.rsplit('/').next().unwrap_or_default().contains('.');
    let is_code = is_script || [".rs", ".py", ".mjs", ".js", ".sh"].iter().any(|end| file.ends_with(end));
    let code = if file.ends_with(".rs") { without_comments_and_strings(text) } else { String::new() };
    let code: Vec<&str> = code.lines().collect();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        for word in PUT_OFF {
            if has_word(line, word) {
                findings.add(number, format!("{word} puts work off"), "a change that does it, or nothing");
            }
        }
        for (needle, instead) in FOREIGN_TEXT {
            if line.contains(needle) {
                findings.add(number, format!("`{needle}` belongs to one machine"), instead);
            }
        }
        if is_code && line.chars().count() > LINE_CHARS_MAX && !is_long_by_a_string(file, line, code.get(index)) {
            findings.add(number, format!("longer than {LINE_CHARS_MAX} characters"), "two lines");
        }
        if is_code && line.ends_with([' ', '\t']) {
            findings.add(number, "blanks at the line's end", "none");
        }
    }
    findings.found
}

/// Whether the line fits without its strings: breaking one would hide it from a search. `code` is the line without
/// strings and comments.
fn is_long_by_a_string(file: &str, line: &str, code: Option<&&str>) -> bool {
    let rest: usize = code.map_or("", |code| *code).split_whitespace().map(|word| word.len() + 1).sum();
    file.ends_with(".rs") && !line.contains("//") && rest <= LINE_CHARS_MAX
}

/// Rules for Rust sources.
fn check_source(file: &str, text: &str, map: &Layers) -> Vec<Finding> {
    let mut findings = Findings::of(file);
    if !text.starts_with("//!") && file != "build.rs" {
        findings.add(1, "says nothing about itself", "a first line `//! what the file is about`");
    }
    check_comments(text, &mut findings);
    let code = without_comments_and_strings(text);
    let tests_begin = if file.ends_with("/tests.rs") { 0 } else { check_tests_stand_last(&code, &mut findings) };
    for (index, line) in code.lines().enumerate() {
        let number = index + 1;
        let is_test = number >= tests_begin || !file.starts_with("src/");
        // The floor is a yardstick, no part of the server: it calls the kernel as barely as can be.
        if file != "src/sys.rs" && !file.starts_with("benches/floor/") && has_word(line, "unsafe") {
            findings.add(number, "`unsafe` outside src/sys.rs", "a safe function of src/sys.rs");
        }
        let reads_clock = ["Instant::now", "SystemTime::now"].iter().find(|call| line.contains(**call));
        if let Some(call) = reads_clock
            && !is_test
            && !CLOCK_READERS.iter().any(|place| file.starts_with(place))
        {
            findings.add(number, format!("`{call}` reads the clock"), "the `now` that is handed in");
        }
    }
    if file.starts_with("src/") {
        check_arrows(file, &code, tests_begin, map, &mut findings);
    }
    findings.found
}

/// Code that was commented out says neither why it is gone nor when it returns.
fn check_comments(text: &str, findings: &mut Findings<'_>) {
    let plain = text.lines().enumerate().filter_map(|(index, line)| {
        let comment = line.trim_start().strip_prefix("//")?;
        (!comment.starts_with(['/', '!'])).then(|| (index + 1, comment.trim()))
    });
    for (number, comment) in plain {
        let is_statement = comment.ends_with(';')
            && (comment.ends_with(");")
                || comment.ends_with("?;")
                || comment.contains(" = ")
                || !comment.contains(' '));
        let opens_block = comment.ends_with('{') || comment == "}" || comment == "});";
        let is_item = [("let ", " = "), ("use ", "::"), ("pub fn ", "("), ("fn ", "("), ("#[", "]")]
            .iter()
            .any(|(start, part)| comment.starts_with(start) && comment.contains(part) && !comment.ends_with('.'));
        if is_statement || opens_block || is_item {
            findings.add(number, "code that is commented out", "the history, which keeps it");
        }
    }
}

/// The line on which the test module begins, `usize::MAX` where there is none.
fn check_tests_stand_last(code: &str, findings: &mut Findings<'_>) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let mut begin = usize::MAX;
    for (index, pair) in lines.windows(2).enumerate() {
        let opens = pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].trim_end().ends_with('{');
        if !opens {
            continue;
        }
        begin = begin.min(index + 1);
        let end = lines[index..].iter().position(|line| *line == "}").map(|offset| index + offset);
        let rest = end.map_or("", |end| lines[end + 1..].iter().find(|line| !line.trim().is_empty()).unwrap_or(&""));
        if !rest.is_empty() {
            findings.add(index + 1, "tests before the end of the file", "one module of tests, as the file's last item");
        }
    }
    begin
}

/// The rows of the table in `src/lib.rs`, from the top.
struct Layers(Vec<Layer>);

struct Layer {
    /// As in `use crate::…`: `shard::core`.
    module: String,
    /// The only modules that it may use, where the row names them.
    only: Option<Vec<String>>,
}

impl Layers {
    fn read(lib: &str) -> Self {
        let rows = lib.lines().filter_map(|line| line.strip_prefix("//! | [`"));
        let layers: Vec<Layer> = rows
            .map(|row| {
                let mut cells = row.split('|').map(str::trim);
                let module = cells.next().unwrap().replace("`] ", "::").replace("`]", "");
                let only = match cells.nth(1).unwrap_or_default() {
                    "anything else" => Some(Vec::new()),
                    never => never
                        .strip_prefix("anything but ")
                        .map(|names| names.split(',').map(|name| name.trim_matches([' ', '`']).to_owned()).collect()),
                };
                Layer { module, only }
            })
            .collect();
        assert!(layers.len() >= 8, "the table of modules in src/lib.rs has only {} rows", layers.len());
        Self(layers)
    }

    /// The row of `path`. What a folder says beside its rows counts as its last row when it uses, as its first
    /// when it is used: `shard` joins core and driver, and its words are there for both.
    fn rank(&self, path: &[String], uses: bool) -> Option<usize> {
        let joined = path.join("::");
        let mut rows = (0..self.0.len()).filter(|&row| {
            let module = &self.0[row].module;
            joined == *module || joined.starts_with(&format!("{module}::"))
        });
        let within = |row: &usize| self.0[*row].module.split("::").next() == path.first().map(String::as_str);
        let mut family = (0..self.0.len()).filter(within);
        rows.next().or_else(|| if uses { family.next_back() } else { family.next() })
    }
}

fn check_arrows(file: &str, code: &str, tests_begin: usize, map: &Layers, findings: &mut Findings<'_>) {
    let own = module_path(file);
    if SANS_IO.iter().any(|place| file.starts_with(place)) {
        for (number, path) in paths(code, "").into_iter().filter(|(number, _)| *number < tests_begin) {
            for (forbidden, instead) in IO_PATHS {
                if path == forbidden || path.starts_with(&format!("{forbidden}::")) {
                    findings.add(number, format!("`{forbidden}` in a layer without sockets, clocks, threads"), instead);
                }
            }
        }
    }
    let Some(first) = own.first() else { return };
    if file == "src/main.rs" {
        return;
    }
    let Some(own_rank) = map.rank(&own, true) else {
        findings.add(1, format!("`{first}` has no row in the table of src/lib.rs"), "a row that says what it may use");
        return;
    };
    for (number, path) in paths(code, "crate").into_iter().filter(|(number, _)| *number < tests_begin) {
        let Some(target) = resolve(&own, &path) else { continue };
        let Some(rank) = map.rank(&target, false) else { continue };
        let (layer, used) = (&map.0[own_rank], &map.0[rank]);
        let joined = target.join("::");
        let exception = FORBIDDEN_ARROWS.iter().find(|(from, to, _)| {
            (own.join("::") + "::").starts_with(&format!("{from}::"))
                && (joined.clone() + "::").starts_with(&format!("{to}::"))
        });
        if target.first() == own.first() && !layer.module.contains("::") {
            continue;
        } else if let Some((from, to, instead)) = exception {
            findings.add(number, format!("`{from}` uses `{to}`"), *instead);
        } else if rank > own_rank {
            let what = format!("`{}` uses `{}`, which stands below it", layer.module, used.module);
            findings.add(number, what, "what stands above it in the table of src/lib.rs");
        } else if let Some(only) = &layer.only
            && rank != own_rank
            && !only.contains(&used.module)
        {
            let what = format!("`{}` uses `{}`, which its row forbids", layer.module, used.module);
            findings.add(number, what, "values that are handed in");
        }
    }
}

/// `src/shard/core/wheel.rs` is `shard::core::wheel`.
fn module_path(file: &str) -> Vec<String> {
    let stem = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    stem.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// The module that `path`, which begins with `crate` or `super`, means inside `own`.
fn resolve(own: &[String], path: &str) -> Option<Vec<String>> {
    let mut parts = path.split("::").peekable();
    let mut base: Vec<String> = match *parts.peek()? {
        "crate" => Vec::new(),
        "super" => own.to_vec(),
        _ => return None,
    };
    for part in parts {
        match part {
            "crate" => {}
            "super" => drop(base.pop()),
            name => base.push(name.to_owned()),
        }
    }
    (!base.is_empty()).then_some(base)
}

/// Every path that `code` names, `use` trees spelled out, with its line. With `root` "crate" those that begin with
/// `crate` or `super`; with "" the others.
fn paths(code: &str, root: &str) -> Vec<(usize, String)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        let (line, token) = &tokens[index];
        if token == "use" {
            index = use_tree(&tokens, index + 1, "", &mut found);
        } else if is_name(token) {
            let (line, mut path) = (*line, token.clone());
            while tokens.get(index + 1).is_some_and(|(_, next)| next == "::")
                && tokens.get(index + 2).is_some_and(|(_, next)| is_name(next))
            {
                path = format!("{path}::{}", tokens[index + 2].1);
                index += 2;
            }
            if path.contains("::") {
                found.push((line, path));
            }
            index += 1;
        } else {
            index += 1;
        }
    }
    found.retain(|(_, path)| {
        let is_ours = path.starts_with("crate::") || path.starts_with("super::");
        is_ours == (root == "crate")
    });
    found
}

/// Reads one tree from `tokens[index]` on; returns where it ends.
fn use_tree(tokens: &[(usize, String)], mut index: usize, prefix: &str, found: &mut Vec<(usize, String)>) -> usize {
    let mut path = prefix.to_owned();
    let mut line = 0;
    while let Some((at, token)) = tokens.get(index) {
        match token.as_str() {
            "::" => {}
            "{" => {
                index += 1;
                while tokens.get(index).is_some_and(|(_, token)| token != "}") {
                    index = use_tree(tokens, index, &path, found);
                    if tokens.get(index).is_some_and(|(_, token)| token == ",") {
                        index += 1;
                    }
                }
                return index + 1;
            }
            "as" => index += 1,
            name if is_name(name) || name == "*" => {
                line = *at;
                path = if path.is_empty() { name.to_owned() } else { format!("{path}::{name}") };
            }
            _ => break,
        }
        index += 1;
    }
    if !path.is_empty() {
        found.push((line, path));
    }
    index
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Names, `::` and single signs, each with its line.
fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut tokens = Vec::new();
    for (index, line) in code.lines().enumerate() {
        let mut rest = line;
        while let Some(first) = rest.chars().next() {
            let bytes = if is_name(rest) {
                rest.find(|sign: char| !sign.is_alphanumeric() && sign != '_').unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            if !first.is_whitespace() {
                tokens.push((index + 1, rest[..bytes].to_owned()));
            }
            rest = &rest[bytes..];
        }
    }
    tokens
}

/// Blanks in the place of comments, strings and characters; the lines stay.
fn without_comments_and_strings(text: &str) -> String {
    let signs: Vec<char> = text.chars().collect();
    let at = |index: usize| signs.get(index).copied().unwrap_or('\0');
    let mut code = String::with_capacity(text.len());
    let mut index = 0;
    while index < signs.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => (index..signs.len()).find(|&end| at(end) == '\n').unwrap_or(signs.len()),
            ('/', '*') => block_comment_end(&signs, index),
            ('"', _) => string_end(&signs, index),
            ('r', '"' | '#') if !is_name_sign(&signs, index) => raw_string_end(&signs, index),
            ('\'', '\\') => (index + 3..signs.len()).find(|&end| at(end) == '\'').map_or(signs.len(), |end| end + 1),
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index,
        };
        if end == index {
            code.push(at(index));
            index += 1;
        }
        while index < end.min(signs.len()) {
            code.push(if at(index) == '\n' { '\n' } else { ' ' });
            index += 1;
        }
    }
    code
}

/// Whether the sign before `index` belongs to a name, so that an `r` at `index` begins no raw string. `br"…"` does.
fn is_name_sign(signs: &[char], index: usize) -> bool {
    let before = index.checked_sub(1).map_or(' ', |before| signs[before]);
    (before.is_alphanumeric() && before != 'b') || before == '_'
}

fn block_comment_end(signs: &[char], begin: usize) -> usize {
    let (mut depth, mut index) = (0, begin);
    while index + 1 < signs.len() {
        match (signs[index], signs[index + 1]) {
            ('/', '*') => (depth, index) = (depth + 1, index + 2),
            ('*', '/') if depth == 1 => return index + 2,
            ('*', '/') => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
    }
    signs.len()
}

fn string_end(signs: &[char], begin: usize) -> usize {
    let mut index = begin + 1;
    while index < signs.len() {
        match signs[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    signs.len()
}

/// `begin` itself where this is no raw string, but a raw name such as `r#type`.
fn raw_string_end(signs: &[char], begin: usize) -> usize {
    let hashes = signs[begin + 1..].iter().take_while(|sign| **sign == '#').count();
    let body = begin + 1 + hashes;
    if signs.get(body) != Some(&'"') {
        return begin;
    }
    let closes = |end: &usize| {
        signs[*end] == '"' && signs[end + 1..].iter().take(hashes).filter(|sign| **sign == '#').count() == hashes
    };
    (body + 1..signs.len()).find(closes).map_or(signs.len(), |end| end + 1 + hashes)
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(begin, _)| {
        let is_part = |sign: char| sign.is_alphanumeric() || sign == '_';
        let before = line[..begin].chars().next_back().is_some_and(is_part);
        let after = line[begin + word.len()..].chars().next().is_some_and(is_part);
        !before && !after
    })
}

/// Each dependency stands below the reason for it. A companion (`tracing-subscriber` below `tracing`) shares it.
fn check_manifest(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Findings::of(file);
    let (mut in_dependencies, mut has_reason, mut above) = (false, false, "");
    for (index, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
            (has_reason, above) = (false, "");
        } else if line.starts_with('#') {
            (has_reason, above) = (true, "");
        } else if let Some((name, _)) =
            line.split_once('=').filter(|_| in_dependencies && !line.starts_with([' ', '\t']))
        {
            let name = name.trim();
            if !has_reason && (above.is_empty() || !name.starts_with(above)) {
                findings.add(
                    index + 1,
                    format!("`{name}` has no reason"),
                    "a comment above it that says what it is for",
                );
            }
            (has_reason, above) = (false, name);
        } else if line.trim().is_empty() {
            (has_reason, above) = (false, "");
        }
    }
    findings.found
}

/// The rules, each seen to fail.
mod rules {
    use super::*;

    const LIB: &str = "\
//! | module | holds | never touches |
//! | --- | --- | --- |
//! | [`config`] | knobs | anything else |
//! | [`sys`] | system calls | anything else |
//! | [`protocol`] | bytes | sockets, clocks, threads |
//! | [`presence`] | users | sockets, clocks, threads |
//! | [`shard`] core | life | sockets, clocks |
//! | [`shard`] driver | mio | the meaning of messages |
//! | [`control`] | HTTP | connections |
//! | [`cli`] | words | anything but `config` |
//! | [`server`] | threads | – |
//! | [`load`] | a client | the server |
";

    /// What `check_source` says of `code` in `file`, the leading doc line not counted.
    fn said(file: &str, code: &str) -> Vec<String> {
        let found = check_source(file, &format!("//! A file.\n{code}"), &Layers::read(LIB));
        found.iter().map(|finding| format!("{}: {}", finding.line - 1, finding.what)).collect()
    }

    #[test]
    fn a_finding_is_file_line_what_use_what() {
        let found = check_source("src/a.rs", "fn a() {}\n", &Layers::read(LIB));
        assert_eq!(
            found[0].to_string(),
            "src/a.rs:1: says nothing about itself, use a first line `//! what the file is about`"
        );
    }

    #[test]
    fn the_core_knows_no_sockets_clocks_and_threads() {
        for (code, what) in [
            ("use mio::Token;", "mio"),
            ("use std::{fmt, net::{IpAddr, TcpStream}};", "std::net::TcpStream"),
            ("fn a() { std::thread::sleep(b); }", "std::thread"),
            ("use std::time::Instant;", "std::time::Instant"),
            ("use std::time::{Duration, SystemTime as Wall};", "std::time::SystemTime"),
        ] {
            for file in ["src/protocol/frame.rs", "src/presence/mod.rs", "src/shard/core/mod.rs", "src/shard/core.rs"] {
                assert_eq!(said(file, code), [format!("1: `{what}` in a layer without sockets, clocks, threads")]);
            }
            assert!(said("src/shard/driver/mod.rs", code).is_empty());
        }
        assert!(said("src/protocol/frame.rs", "use std::net::SocketAddr;\nuse std::time::Duration;").is_empty());
    }

    #[test]
    fn only_sys_is_unsafe() {
        assert_eq!(said("src/load/mod.rs", "fn a() { unsafe { b() } }"), ["1: `unsafe` outside src/sys.rs"]);
        assert!(said("src/sys.rs", "fn a() { unsafe { b() } }").is_empty());
        assert!(said("src/load/mod.rs", "/// No unsafe.\nconst A: &str = \"unsafe\"; fn is_unsafe() {}").is_empty());
    }

    #[test]
    fn arrows_point_upwards() {
        let below = |from: &str, to: &str| vec![format!("1: `{from}` uses `{to}`, which stands below it")];
        assert_eq!(said("src/protocol/frame.rs", "use crate::shard::ConnectionId;"), below("protocol", "shard::core"));
        assert_eq!(said("src/protocol/frame.rs", "use super::super::presence::A;"), below("protocol", "presence"));
        assert_eq!(said("src/presence/mod.rs", "use super::control::A;"), below("presence", "control"));
        assert_eq!(said("src/control/a.rs", "fn a() { crate::server::b(); }"), below("control", "server"));
        assert_eq!(
            said("src/shard/core/mod.rs", "use crate::{sys::A,\n    shard::{self, driver::B}};"),
            ["2: `shard::core` uses `shard::driver`, which stands below it"]
        );
        assert_eq!(said("src/config/mod.rs", "use crate::sys::A;"), below("config", "sys"));
        assert_eq!(said("src/sys.rs", "use crate::config::A;"), ["1: `sys` uses `config`, which its row forbids"]);
        assert_eq!(said("src/cli.rs", "use crate::sys::A;"), ["1: `cli` uses `sys`, which its row forbids"]);
        for (file, code) in [
            ("src/cli.rs", "use crate::config::A;"),
            ("src/shard/core/mod.rs", "use crate::presence::A;\nuse crate::shard::ConnectionId;\nuse super::Words;"),
            ("src/shard/core/wheel.rs", "use super::limits::A;\nuse crate::protocol::frame;"),
            ("src/shard/driver/mod.rs", "use crate::shard::core::A;\nuse crate::protocol::error::B;"),
            ("src/shard/mod.rs", "use crate::shard::driver::A;"),
            ("src/config/knobs.rs", "use super::Config;\nuse crate::config::B;"),
            ("src/server.rs", "use crate::{config, control, shard::driver};"),
            ("src/main.rs", "use rollcall::server;"),
        ] {
            assert!(said(file, code).is_empty(), "{file}: {:?}", said(file, code));
        }
    }

    #[test]
    fn some_arrows_are_missing_on_purpose() {
        assert_eq!(said("src/load/mod.rs", "use crate::shard::A;"), ["1: `load` uses `shard`"]);
        assert_eq!(
            said("src/shard/driver/socket.rs", "use crate::protocol::message::A;"),
            ["1: `shard::driver` uses `protocol::message`"]
        );
        assert!(said("src/load/mod.rs", "use crate::protocol::message::A;").is_empty());
    }

    #[test]
    fn a_module_stands_on_the_map() {
        assert_eq!(said("src/extra.rs", ""), ["0: `extra` has no row in the table of src/lib.rs"]);
    }

    #[test]
    fn the_clock_is_read_in_few_places() {
        let code = "fn a() { let now = Instant::now(); }";
        assert_eq!(said("src/shard/driver/mod.rs", code), ["1: `Instant::now` reads the clock"]);
        assert_eq!(said("src/sys.rs", "use std::time; fn a() { time::SystemTime::now(); }").len(), 1);
        assert!(said("src/shard/driver/clock.rs", code).is_empty());
        assert!(said("src/sys.rs", &format!("#[cfg(test)]\nmod tests {{\n    {code}\n}}")).is_empty());
    }

    #[test]
    fn work_is_not_put_off() {
        for word in PUT_OFF {
            let found = check_text("README.md", &format!("First.\n{word}: the rest\n"));
            assert_eq!((found.len(), found[0].line), (1, 2));
        }
        assert!(check_text("README.md", "A mask of X's.\n").is_empty());
    }

    #[test]
    fn no_code_is_commented_out() {
        for code in ["// let a = b();", "    // a.b(c);", "// if a {", "// }", "// use a::b", "// #[test]"] {
            assert_eq!(said("src/sys.rs", code), ["1: code that is commented out"], "{code}");
        }
        for prose in
            ["// RFC 6455 §5.1: masks; see there.", "/// let a = b();", "// SAFETY: it is (as said) set before;"]
        {
            assert!(said("src/sys.rs", prose).is_empty(), "{prose}");
        }
    }

    #[test]
    fn lines_fit() {
        let long = "a".repeat(LINE_CHARS_MAX + 1);
        assert_eq!(check_text("src/a.rs", &long).len(), 1);
        assert_eq!(check_text("tests/run", &long).len(), 1);
        assert!(check_text("README.md", &long).is_empty());
        assert!(check_text("src/a.rs", &long[1..]).is_empty());
        assert!(check_text("src/a.rs", &format!("    a(\"{long}\")")).is_empty());
        assert_eq!(check_text("src/a.rs", &format!("// \"{long}\"")).len(), 1);
        assert!(check_text("src/a.rs", &"é".repeat(LINE_CHARS_MAX)).is_empty());
        assert_eq!(check_text("src/a.rs", "fn a() {} \n").len(), 1);
    }

    #[test]
    fn tests_stand_last() {
        let tests = "#[cfg(test)]\nmod tests {\n    fn a() {}\n}\n";
        assert_eq!(said("src/sys.rs", &format!("{tests}\nfn b() {{}}\n")), ["1: tests before the end of the file"]);
        assert!(said("src/sys.rs", &format!("fn b() {{}}\n\n{tests}")).is_empty());
        assert!(said("src/shard/core/tests.rs", "use std::time::Instant;").is_empty());
    }

    #[test]
    fn a_dependency_has_a_reason() {
        let manifest = "[dependencies]\n# Logs.\ntracing = \"1\"\ntracing-subscriber = \"1\"\nslab = \"1\"\n";
        let found = check_manifest("Cargo.toml", manifest);
        assert_eq!((found.len(), found[0].line), (1, 5));
        assert_eq!(check_manifest("Cargo.toml", "[dev-dependencies]\nslab = \"1\"\n").len(), 1);
        assert!(check_manifest("Cargo.toml", "[package]\nname = \"a\"\n").is_empty());
    }

    #[test]
    fn one_machine_stays_out_of_the_text() {
        for (needle, _) in FOREIGN_TEXT {
            assert_eq!(check_text("README.md", &format!("see {needle}\n")).len(), 1, "{needle}");
        }
        assert!(check_text("README.md", "a framework/thing\n").is_empty());
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = "a /* b /* c */ d */ e \"f\\\"g\" 'h' '\\'' 'i: r#\"j\"k\"# br\"l\" r#type // m\nn";
        let code = without_comments_and_strings(text);
        let kept: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(kept, "a e 'i: b r#type n");
    }
}
