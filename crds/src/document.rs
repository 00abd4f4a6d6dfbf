//! A YAML document as a tree in which every value knows its place.
//!
//! The text comes from anybody, so depth and size are bounded while the parser's events arrive, and an alias counts as much
//! as what it stands for.

use std::{borrow::Cow, collections::HashMap};

use saphyr::{Scalar, ScalarStyle, Tag};
use saphyr_parser::{Event, Marker, Parser, Span};
use serde_json::Value as Json;

use crate::problem::{Place, Report, excerpt};

/// Largest text, in bytes.
const TEXT_LIMIT: usize = 1024 * 1024;
/// Deepest nesting of maps and lists.
const DEPTH_LIMIT: usize = 32;
/// Most values, with those that aliases repeat; long text counts as several.
const NODE_LIMIT: usize = 10_000;
/// Bytes of text that count as one more value.
const TEXT_UNIT: usize = 128;

/// A value and where it was given. A map or list that is the value of a key has the key's place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// A value of a YAML document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map and its value; the keys of a map differ.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) node: Node,
}

impl Node {
    /// The value of `key` if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node)
    }

    /// The same value, given at `place` from top to bottom.
    pub(crate) fn moved_to(mut self, place: &Place) -> Self {
        self.place.clone_from(place);
        self.value = match self.value {
            Value::List(items) => Value::List(items.into_iter().map(|item| item.moved_to(place)).collect()),
            Value::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|entry| Entry { key: entry.key, place: place.clone(), node: entry.node.moved_to(place) })
                    .collect(),
            ),
            scalar => scalar,
        };
        self
    }

    /// The value without places. Numbers that are not finite become null, which JSON has instead.
    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Number(value) => (*value).into(),
            Value::Text(value) => value.as_str().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect(),
        }
    }

    /// How many values this tree counts as, and its depth in maps and lists.
    fn extent(&self) -> (usize, usize) {
        let children: Vec<(usize, &Self)> = match &self.value {
            Value::List(items) => items.iter().map(|item| (0, item)).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.len() / TEXT_UNIT, &entry.node)).collect(),
            Value::Text(text) => return (1 + text.len() / TEXT_UNIT, 0),
            _ => return (1, 0),
        };
        children.into_iter().fold((1, 1), |(size, depth), (key, child)| {
            let (more, deeper) = child.extent();
            (size + key + more, depth.max(deeper + 1))
        })
    }
}

/// Reads the one document of `text`. Problems go to `report`; without a tree there is at least one.
pub(crate) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let start = Place::File { line: 1, column: 1 };
    if text.len() > TEXT_LIMIT {
        report.add(&start, "", format!("found {} bytes", text.len()), "a run file has at most 1 MiB");
        return None;
    }
    let mut builder = Builder { report, open: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None };
    match builder.read(text) {
        Ok(()) => {
            let root = builder.root;
            if root.is_none() {
                report.add(&start, "", "found no document", "give one TrainingRun");
            }
            root
        }
        Err(Flaw { place, message, help }) => {
            report.add(&place, "", message, help);
            None
        }
    }
}

/// Why the rest of a text cannot be read.
struct Flaw {
    place: Place,
    message: String,
    help: &'static str,
}

/// A map or list that has begun and not ended.
struct Open {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Place)> },
}

struct Builder<'a> {
    report: &'a mut Report,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn read(&mut self, text: &str) -> Result<(), Flaw> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| Flaw {
                place: place(error.marker()),
                message: format!("found text that is not YAML ({})", error.info()),
                help: "write the run as YAML",
            })?;
            self.event(event, span)?;
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Flaw> {
        let place = place(&span.start);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(Flaw { place, message: "found a second document".into(), help: "a run file has one TrainingRun" })
            }
            Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, tag.as_ref(), anchor, place),
            Event::SequenceStart(anchor, _) => self.begin(place, anchor, Content::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.begin(place, anchor, Content::Map { entries: Vec::new(), key: None }),
            Event::SequenceEnd | Event::MappingEnd => {
                self.end();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, place),
            _ => Ok(()),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'_, str>,
        style: ScalarStyle,
        tag: Option<&Cow<'_, Tag>>,
        anchor: usize,
        place: Place,
    ) -> Result<(), Flaw> {
        self.count(1 + text.len() / TEXT_UNIT, 0, &place)?;
        if let Some(Open { content: Content::Map { key: key @ None, .. }, .. }) = self.open.last_mut() {
            *key = Some((text.into_owned(), place));
            return Ok(());
        }
        let value = scalar_value(text, style, tag).ok_or_else(|| Flaw {
            place: place.clone(),
            message: "found a value that its tag does not allow".into(),
            help: "leave the tag out",
        })?;
        self.put(Node { place, value }, anchor);
        Ok(())
    }

    fn begin(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), Flaw> {
        self.count(1, 1, &place)?;
        if self.awaits_key() {
            return Err(Flaw { place, message: "found a map or list as a key".into(), help: "a key is a word" });
        }
        self.open.push(Open { place, anchor, content });
        Ok(())
    }

    fn end(&mut self) {
        if let Some(Open { place, anchor, content }) = self.open.pop() {
            let value = match content {
                Content::List(items) => Value::List(items),
                Content::Map { entries, .. } => Value::Map(entries),
            };
            self.put(Node { place, value }, anchor);
        }
    }

    fn alias(&mut self, anchor: usize, place: Place) -> Result<(), Flaw> {
        let Some(node) = self.anchors.get(&anchor).filter(|_| !self.awaits_key()) else {
            return Err(Flaw { place, message: "found an alias that stands for no value".into(), help: "write the value" });
        };
        let node = node.clone();
        let (size, depth) = node.extent();
        self.count(size, depth, &place)?;
        self.put(node, 0);
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    fn count(&mut self, nodes: usize, depth: usize, place: &Place) -> Result<(), Flaw> {
        self.nodes += nodes;
        let message = if self.nodes > NODE_LIMIT {
            format!("found more than {NODE_LIMIT} values")
        } else if self.open.len() + depth > DEPTH_LIMIT {
            format!("found more than {DEPTH_LIMIT} levels")
        } else {
            return Ok(());
        };
        Err(Flaw { place: place.clone(), message, help: "a TrainingRun is much smaller" })
    }

    fn put(&mut self, mut node: Node, anchor: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, key }) => {
                let Some((key, place)) = key.take() else { return };
                if matches!(node.value, Value::List(_) | Value::Map(_)) {
                    node.place.clone_from(&place);
                }
                if entries.iter().any(|entry| entry.key == key) {
                    self.report.add(
                        &place,
                        "",
                        format!("found {} a second time", excerpt(&format!("{key:?}"))),
                        "give each field once",
                    );
                } else {
                    entries.push(Entry { key, place, node });
                }
            }
        }
    }
}

/// The value of a scalar by the core schema of YAML 1.2. A number with a leading zero stays text: YAML 1.1, which `kubectl`
/// reads, takes it for an octal number.
fn scalar_value(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Cow<'_, Tag>>) -> Option<Value> {
    let digits = text.trim_start_matches(['+', '-']);
    let octal = digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    if octal && tag.is_none() {
        return Some(Value::Text(text.into_owned()));
    }
    Some(match Scalar::parse_from_cow_and_metadata(text, style, tag)? {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => Value::Boolean(value),
        Scalar::Integer(value) => Value::Integer(value),
        Scalar::FloatingPoint(value) => Value::Number(value.into_inner()),
        Scalar::String(value) => Value::Text(value.into_owned()),
    })
}

fn place(marker: &Marker) -> Place {
    Place::File { line: marker.line(), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn problem_of(text: &str) -> String {
        let mut report = Report::new(Path::new("run.yaml"));
        let tree = parse(text, &mut report);
        report.finish(tree).unwrap_err().to_string()
    }

    #[test]
    fn every_value_knows_its_place() {
        let mut report = Report::new(Path::new("run.yaml"));
        let tree = parse("a: 1\nb:\n  c: [x, 2.5]\n", &mut report).unwrap();
        assert_eq!(tree.get("a").unwrap().place, Place::File { line: 1, column: 4 });
        let list = tree.get("b").unwrap().get("c").unwrap();
        assert_eq!(list.place, Place::File { line: 3, column: 3 });
        let Value::List(items) = &list.value else { panic!("{list:?}") };
        assert_eq!(items[1], Node { place: Place::File { line: 3, column: 10 }, value: Value::Number(2.5) });
    }

    #[test]
    fn an_alias_bomb_is_refused_before_it_grows() {
        let bomb = (1..12).fold("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned(), |text, level| {
            let below = format!("*a{}", level - 1);
            text + &format!("a{level}: &a{level} [{}]\n", [below.as_str(); 8].join(", "))
        });
        assert!(problem_of(&bomb).contains("found more than 10000 values"));
    }

    #[test]
    fn an_alias_of_a_long_text_counts_its_length() {
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), ["*a"; 100].join(", "));
        assert!(problem_of(&text).contains("found more than 10000 values"));
    }

    #[test]
    fn a_chain_of_aliases_counts_its_depth() {
        let chain =
            (1..100).fold("a0: &a0 [1]\n".to_owned(), |text, level| text + &format!("a{level}: &a{level} [*a{}]\n", level - 1));
        assert!(problem_of(&chain).contains("found more than 32 levels"));
    }

    #[test]
    fn deep_nesting_is_refused_in_every_style() {
        for text in ["[".repeat(500_000), "- ".repeat(500_000), "{a: ".repeat(200_000), "? ".repeat(500_000)] {
            let problem = problem_of(&text);
            assert!(problem.contains("levels") || problem.contains("as a key") || problem.contains("not YAML"), "{problem}");
        }
    }

    #[test]
    fn more_than_a_mebibyte_is_refused_unread() {
        assert!(problem_of(&"a".repeat(TEXT_LIMIT + 1)).contains("at most 1 MiB"));
    }

    #[test]
    fn an_alias_inside_its_own_anchor_is_refused() {
        assert!(problem_of("a: &a [*a]").contains("an alias that stands for no value"));
    }
}
