//! The metrics that a real cluster and a client of it show.

use std::collections::{BTreeMap, BTreeSet};

use super::recorder::Numbers;
use crate::harness::{Cluster, Metrics};

/// Names and labels of samples.
#[derive(Debug, Default)]
pub(super) struct Exposed {
    /// The values of each label, by the name of the sample.
    samples: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
}

impl Exposed {
    /// Those of both servers, and of a client that has used them.
    pub(super) async fn of_a_cluster() -> Self {
        let mut cluster = Cluster::prepare();
        cluster.pd = cluster.pd.with_status();
        cluster.store = cluster.store.with_status();
        cluster.pd.start_serving().await;
        cluster.store.start_serving().await;
        let numbers = Numbers::default();
        {
            let _local = metrics::set_default_local_recorder(&numbers);
            let client = cluster.client().await;
            client.raw_put("k", "v").await.expect("put");
            client.tso().await.expect("a timestamp");
        }
        let mut exposed = Self::default();
        for node in [&cluster.pd, &cluster.store] {
            let address = node.status_address().await;
            exposed.take_in(&Metrics::of(&address).await.text);
        }
        exposed.take_in(&numbers.text());
        exposed
    }

    /// The labels of the samples of this name, each with the values that it has. `None`: there is no such sample.
    pub(super) fn labels(&self, name: &str) -> Option<&BTreeMap<String, BTreeSet<String>>> {
        self.samples.get(name)
    }

    fn take_in(&mut self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (sample, _) = line.rsplit_once(' ').expect("a name and a value");
            let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
            let labels = labels.trim_end_matches('}');
            let of_name = self.samples.entry(name.to_owned()).or_default();
            // No value has a quotation mark.
            let mut parts = labels.split('"');
            while let (Some(label), Some(value)) = (parts.next(), parts.next()) {
                let label = label.trim_matches([',', '=']);
                let values = of_name.entry(label.to_owned()).or_default();
                values.insert(value.to_owned());
            }
        }
    }
}
