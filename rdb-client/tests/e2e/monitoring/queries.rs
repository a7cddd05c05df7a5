//! Which metrics and labels a query of Prometheus names. It is read word by word, not understood.

use std::collections::{BTreeMap, BTreeSet};

use super::exposed::Exposed;

/// Labels that Prometheus adds to what it scrapes.
const OF_THE_TARGET: [&str; 2] = ["instance", "job"];

/// Words that name neither a metric nor a function.
const OPERATORS: [&str; 5] = ["and", "or", "unless", "bool", "offset"];

/// Words that labels follow in parentheses.
const GROUPINGS: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];

/// What a query names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    metrics: Vec<Selected>,
    /// Labels that results are grouped or joined by.
    grouped: BTreeSet<String>,
}

/// A metric, with the labels that it is selected by and the values of each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selected {
    name: String,
    labels: BTreeMap<String, Vec<String>>,
}

impl Query {
    pub(super) fn read(text: &str) -> Self {
        let mut query = Self::default();
        let mut words = Words(text);
        while let Some(word) = words.next_word() {
            if !word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
                continue;
            }
            if GROUPINGS.contains(&word) {
                assert_eq!(words.next_word(), Some("("), "{word} in {text}");
                while let Some(word) = words.next_word().filter(|word| *word != ")") {
                    if word != "," {
                        query.grouped.insert(word.to_owned());
                    }
                }
            } else if !OPERATORS.contains(&word) && !words.has_arguments() {
                query.metrics.push(Selected {
                    name: word.to_owned(),
                    labels: words.labels(),
                });
            }
        }
        query
    }

    /// What it names that nobody shows.
    pub(super) fn unknown(&self, exposed: &Exposed) -> Vec<String> {
        let mut unknown = Vec::new();
        for Selected { name, labels } in self.metrics.iter().filter(|metric| metric.name != "up") {
            let Some(known) = exposed.labels(name) else {
                unknown.push(name.clone());
                continue;
            };
            for (label, values) in labels {
                if OF_THE_TARGET.contains(&label.as_str()) {
                    continue;
                }
                let absent = values
                    .iter()
                    .filter(|value| !known.get(label).is_some_and(|known| known.contains(*value)));
                unknown.extend(absent.map(|value| format!("{name}{{{label}=\"{value}\"}}")));
                if !known.contains_key(label) {
                    unknown.push(format!("{name}{{{label}}}"));
                }
            }
        }
        let grouped = self.grouped.iter();
        unknown.extend(grouped.filter(|label| !self.has(label, exposed)).cloned());
        unknown
    }

    /// Whether a result can have this label.
    pub(super) fn has(&self, label: &str, exposed: &Exposed) -> bool {
        let of_metric = |metric: &Selected| {
            let labels = exposed.labels(&metric.name);
            labels.is_some_and(|labels| labels.contains_key(label))
        };
        OF_THE_TARGET.contains(&label) || self.metrics.iter().any(of_metric)
    }
}

/// The rest of a query.
struct Words<'q>(&'q str);

impl<'q> Words<'q> {
    /// A name, a number with its unit, a text in quotation marks, a variable of Grafana, or one sign.
    fn next_word(&mut self) -> Option<&'q str> {
        let rest = self.0.trim_start();
        let first = rest.chars().next()?;
        let is_part = |part: char| part.is_ascii_alphanumeric() || "_:.".contains(part);
        let end = if first == '"' || first == '\'' {
            let closing = rest[1..].find(first).expect("quotation marks are closed");
            closing + 2
        } else if is_part(first) || first == '$' {
            let behind = rest[1..].find(|part| !is_part(part));
            behind.map_or(rest.len(), |behind| behind + 1)
        } else {
            first.len_utf8()
        };
        let (word, rest) = rest.split_at(end);
        self.0 = rest;
        Some(word)
    }

    /// Whether the word before is a function, or sums up what follows.
    fn has_arguments(&self) -> bool {
        let next = Words(self.0).next_word();
        next.is_some_and(|next| ["(", "by", "without"].contains(&next))
    }

    /// The labels in braces that follow, with the values that a sample may have. Variables stand for any.
    fn labels(&mut self) -> BTreeMap<String, Vec<String>> {
        let mut labels = BTreeMap::new();
        if !self.0.trim_start().starts_with('{') {
            return labels;
        }
        let mut label = "";
        while let Some(word) = self.next_word().filter(|word| *word != "}") {
            if let Some(value) = word.strip_prefix('"') {
                let values = value.trim_end_matches('"').split('|');
                let values = values.filter(|value| !value.starts_with('$'));
                labels.insert(label.to_owned(), values.map(str::to_owned).collect());
            } else if word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
                label = word;
            }
        }
        labels
    }
}

#[test]
fn a_query_names_metrics_labels_and_values() {
    let query = Query::read(
        "histogram_quantile(0.99, sum by (instance, le) (rate(a_bucket{instance=~\"$instance\", of!~\"x|y\"}[5m]))) \
         / on (job) group_left () clamp_min(b, 1) and c{d=\"e\"} > 5 * 24 offset 1h",
    );
    let selected = |name: &str, labels: &[(&str, &[&str])]| Selected {
        name: name.to_owned(),
        labels: labels
            .iter()
            .map(|(label, values)| {
                let values = values.iter().map(|value| (*value).to_owned());
                ((*label).to_owned(), values.collect())
            })
            .collect(),
    };
    assert_eq!(
        query.metrics,
        [
            selected("a_bucket", &[("instance", &[]), ("of", &["x", "y"])]),
            selected("b", &[]),
            selected("c", &[("d", &["e"])]),
        ]
    );
    let grouped: Vec<_> = query.grouped.iter().map(String::as_str).collect();
    assert_eq!(grouped, ["instance", "job", "le"]);
}
