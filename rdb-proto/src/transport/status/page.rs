//! The page for people: its files, which are a part of the program.
//!
//! - `page/page.html` is the page. Its part for a placement driver is in `page/cluster.html`, its part for a store in `page/store.html`.
//! - The script asks for `/page.json` every second ([`PAGE_INTERVAL`]) and fills them in. Data from a store or a client is only ever set
//!   as text.
//!
//! Invariants:
//! - [`CONTENT_SECURITY_POLICY`] lets a browser load nothing from elsewhere, and run no inline script.
//! - All files together are small: `what_a_browser_loads_first_is_small` in the tests of this crate has the limit.

use std::time::Duration;

use hyper::header::HeaderValue;

/// How often a page that is seen asks for what is new. The script has it, too.
pub const PAGE_INTERVAL: Duration = Duration::from_secs(1);

/// What a browser may load: these files and `/page.json` of the same process.
pub(super) const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Whose page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// A placement driver shows the cluster.
    Cluster,
    /// A store shows itself.
    Store,
}

impl Subject {
    pub(super) fn document(self) -> String {
        let (name, content) = match self {
            Self::Cluster => ("cluster", include_str!("page/cluster.html")),
            Self::Store => ("store", include_str!("page/store.html")),
        };
        let page = include_str!("page/page.html").replace("{subject}", name);
        page.replace("{content}", content)
    }
}

/// The columns of the list of stores on the page of a cluster. The script knows their names.
pub const STORE_COLUMNS: [&str; 16] = [
    "id",
    "address",
    "state",
    "heard_ms",
    "regions",
    "leads",
    "reads",
    "writes",
    "read_p99_us",
    "write_p99_us",
    "queue_bytes",
    "available_bytes",
    "capacity_bytes",
    "data_bytes",
    "keys",
    "started_ms",
];

/// A file that the page needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asset {
    Style,
    Script,
    Charts,
    Format,
    Icon,
}

impl Asset {
    pub(super) fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/page.css" => Self::Style,
            "/page.js" => Self::Script,
            "/charts.js" => Self::Charts,
            "/format.js" => Self::Format,
            "/icon.svg" => Self::Icon,
            _ => return None,
        })
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Style => "text/css; charset=utf-8",
            Self::Script | Self::Charts | Self::Format => "text/javascript; charset=utf-8",
            Self::Icon => "image/svg+xml",
        })
    }

    pub(super) fn content(self) -> &'static str {
        match self {
            Self::Style => include_str!("page/page.css"),
            Self::Script => include_str!("page/page.js"),
            Self::Charts => include_str!("page/charts.js"),
            Self::Format => include_str!("page/format.js"),
            Self::Icon => include_str!("page/icon.svg"),
        }
    }
}

/// Which part of a process's present a page asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// Number of the first row of the history that the page lacks. `None`: it has none.
    pub(super) since: Option<u64>,
    /// How many stores of the list to leave out.
    pub stores_from: usize,
}

impl View {
    /// What a query such as `since=7&stores_from=20` asks for. What it does not say, or says wrongly, is as if it were not there.
    pub(super) fn of_query(query: Option<&str>) -> Self {
        let mut view = Self::default();
        for (name, value) in query
            .unwrap_or_default()
            .split('&')
            .filter_map(|part| part.split_once('='))
        {
            match name {
                "since" => view.since = value.parse().ok(),
                "stores_from" => view.stores_from = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::READ_INTERVAL;
    use super::*;

    const ASSETS: [Asset; 5] = [
        Asset::Style,
        Asset::Script,
        Asset::Charts,
        Asset::Format,
        Asset::Icon,
    ];

    #[test]
    fn a_query_is_taken_as_far_as_it_is_understood() {
        let view = |since, stores_from| View { since, stores_from };
        for (query, expected) in [
            (None, view(None, 0)),
            (Some(""), view(None, 0)),
            (Some("since=7&stores_from=20"), view(Some(7), 20)),
            (Some("since=-1&stores_from=x&other=1&&="), view(None, 0)),
        ] {
            assert_eq!(View::of_query(query), expected, "{query:?}");
        }
    }

    /// Three seconds are promised. A rate is read first, and then asked for.
    #[test]
    fn what_a_process_does_is_on_its_page_within_two_seconds() {
        let interval = format!("const INTERVAL_MS = {};\n", PAGE_INTERVAL.as_millis());
        let script = Asset::Script.content();
        assert!(script.contains(&interval), "{interval}");
        assert!(script.contains("await pause(document.hidden ? HIDDEN_INTERVAL_MS : INTERVAL_MS)"));
        assert!(READ_INTERVAL + PAGE_INTERVAL <= Duration::from_secs(2));
    }

    /// Inline code and styles would be refused by the browser, and other origins, too.
    #[test]
    fn nothing_stands_in_the_page_that_its_policy_refuses() {
        for subject in [Subject::Cluster, Subject::Store] {
            let document = subject.document();
            for refused in [
                " style=",
                "<style",
                " onclick",
                " onload",
                "javascript:",
                "//",
            ] {
                assert!(!document.contains(refused), "{subject:?}: {refused}");
            }
            let scripts = document.matches("<script").count();
            let files = document.matches("<script type=\"module\" src=\"/").count();
            assert_eq!((scripts, files), (1, 1), "{subject:?}");
        }
    }

    /// Markup that comes from a store or a client stays text.
    #[test]
    fn the_script_makes_no_markup_of_what_it_shows() {
        for asset in ASSETS {
            let content = asset.content();
            for refused in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "setAttribute(\"style\"",
                "setAttribute(\"on",
            ] {
                assert!(!content.contains(refused), "{asset:?}: {refused}");
            }
        }
    }
}
