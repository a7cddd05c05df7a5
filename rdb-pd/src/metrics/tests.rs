//! Each figure has a value that no other has, so that one under the name of another is noticed.

use std::time::Instant;

use rdb_proto::transport::status::metrics_text;

use super::*;

/// Fails unless `write` writes all these lines.
fn assert_written(
    write: impl Fn(&mut Exposition<'_>) -> fmt::Result + Send + Sync + 'static,
    lines: &[&str],
) {
    let text = metrics_text(write).expect("a string takes all");
    for line in lines {
        assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
    }
}

#[test]
fn each_figure_of_timestamps_is_shown_under_its_own_name() {
    let figures = TsoFigures::default();
    figures.timestamps.add(1);
    figures.waits_for_bound.add(2);
    figures.waits_for_clock.add(3);
    figures.failures.add(4);
    figures.bound_moves.note_each(Duration::from_secs(1), 5);
    let position = TsoPosition {
        to_bound_ms: 1_500,
        ahead_of_clock_ms: -2_500,
    };
    assert_written(
        move |exposition| write_timestamps(&figures, position, exposition),
        &[
            "flaredb_tso_timestamps_total 1",
            "flaredb_tso_waits_total{reason=\"bound\"} 2",
            "flaredb_tso_waits_total{reason=\"clock\"} 3",
            "flaredb_tso_failures_total 4",
            "flaredb_tso_bound_move_duration_seconds_count 5",
            "flaredb_tso_bound_distance_seconds 1.5",
            "flaredb_tso_clock_distance_seconds -2.5",
        ],
    );
}

#[test]
fn each_chart_shows_its_own_figure() {
    let load = ClusterLoad {
        reads_per_s: 1.0,
        writes_per_s: 2.0,
        read_p99: Some(Duration::from_secs(3)),
        write_p99: Some(Duration::from_secs(4)),
        write_queue_bytes: 5,
    };
    let tso = TsoFigures::default();
    tso.timestamps.add(6);
    tso.waits_for_bound.add(7);
    tso.waits_for_clock.add(8);
    tso.failures.add(9);
    let position = TsoPosition {
        to_bound_ms: 10_500,
        ahead_of_clock_ms: 11,
    };
    let level = |value| Reading::Level(Some(value));
    let expected = [
        ("reads", level(1.0)),
        ("writes", level(2.0)),
        ("read_p99", level(3.0)),
        ("write_p99", level(4.0)),
        ("write_queue_bytes", level(5.0)),
        ("timestamps", Reading::Count(6)),
        ("tso_waits", Reading::Count(15)),
        ("to_bound", level(10.5)),
    ];
    assert_eq!(chart_readings(Some(load), &tso, position), expected);
}

#[test]
fn each_figure_of_the_cluster_is_shown_under_its_own_name() {
    let figures = Figures::told_by(SlowLog::of_threshold_ms(1), Spans::default());
    figures.slow.tell(Instant::now(), 8, |_| {});
    for (kind, count) in [
        (CallKind::Timestamp, 9),
        (CallKind::Lookup, 10),
        (CallKind::Heartbeat, 11),
        (CallKind::Other, 12),
    ] {
        figures.durations.note(kind, Duration::from_secs(1), count);
    }
    let counts = ClusterCounts {
        up: 1,
        disconnected: 2,
        down: 3,
        leaving: 4,
        regions: 5,
        replicas: 6,
        under_replicated: 7,
    };
    assert_written(
        move |exposition| write_cluster(&figures, counts, exposition),
        &[
            "flaredb_stores{state=\"up\"} 1",
            "flaredb_stores{state=\"disconnected\"} 2",
            "flaredb_stores{state=\"down\"} 3",
            "flaredb_stores{state=\"leaving\"} 4",
            "flaredb_cluster_regions 5",
            "flaredb_cluster_replicas 6",
            "flaredb_cluster_regions_under_replicated 7",
            "flaredb_slow_calls_total 8",
            "flaredb_call_duration_seconds_count{kind=\"timestamp\"} 9",
            "flaredb_call_duration_seconds_count{kind=\"lookup\"} 10",
            "flaredb_call_duration_seconds_count{kind=\"heartbeat\"} 11",
            "flaredb_call_duration_seconds_count{kind=\"other\"} 12",
        ],
    );
}
