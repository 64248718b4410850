//! Rows of figures as a table for people or as JSON for machines. Knows nothing of how they were measured.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

/// A figure that every row has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    /// For people, with the unit.
    pub(crate) heading: &'static str,
    /// For machines.
    pub(crate) key: &'static str,
    pub(crate) decimals: usize,
    /// Whether the ratio to the reference's figure stands beside it.
    pub(crate) ratio: bool,
}

impl Column {
    fn show(&self, value: f64) -> String {
        format!("{value:.*}", self.decimals)
    }

    /// The figure with its heading behind it.
    pub(crate) fn show_with_unit(&self, value: f64) -> String {
        format!("{} {}", self.show(value), self.heading)
    }
}

/// One program's figures.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// What a reader must know to compare fairly; empty for most.
    pub(crate) note: String,
    /// In the columns' order.
    pub(crate) figures: Vec<f64>,
}

/// Rows, what their figures mean, and which row ratios are against.
pub(crate) struct Table<'a> {
    pub(crate) title: String,
    pub(crate) reference: &'a str,
    pub(crate) columns: &'a [Column],
    pub(crate) rows: Vec<Row>,
}

impl Table<'_> {
    /// Prints on stdout, in Markdown or JSON.
    pub(crate) fn print(&self, json: bool) -> Result<()> {
        if json {
            println!("{}", serde_json::to_string_pretty(&self.json()).context("writing JSON")?);
        } else {
            print!("{}", self.markdown());
        }
        Ok(())
    }

    /// A figure as a multiple of the reference's; none without a reference.
    fn ratio(&self, row: &Row, column: usize) -> Option<f64> {
        let reference = self.rows.iter().find(|row| row.name == self.reference)?;
        Some(row.figures[column] / reference.figures[column])
    }

    fn markdown(&self) -> String {
        let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        let mut head = vec!["program".to_owned()];
        for column in self.columns {
            head.push(column.heading.into());
            head.extend(column.ratio.then(|| format!("x {}", self.reference)));
        }
        head.push("remark".into());
        let mut text = format!("\n{}\n\n{}|{}\n", self.title, line(head.clone()), "---|".repeat(head.len()));
        for row in &self.rows {
            let mut cells = vec![row.name.clone()];
            for (at, (column, value)) in self.columns.iter().zip(&row.figures).enumerate() {
                cells.push(column.show(*value));
                let ratio = || self.ratio(row, at).map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
                cells.extend(column.ratio.then(ratio));
            }
            cells.push(row.note.clone());
            text += &line(cells);
        }
        text
    }

    fn json(&self) -> Value {
        let program = |row: &Row| {
            let mut map = Map::from_iter([("name".to_owned(), Value::from(row.name.clone()))]);
            if !row.note.is_empty() {
                map.insert("remark".into(), row.note.clone().into());
            }
            for (at, (column, value)) in self.columns.iter().zip(&row.figures).enumerate() {
                map.insert(column.key.into(), (*value).into());
                if let (true, Some(ratio)) = (column.ratio, self.ratio(row, at)) {
                    map.insert(format!("{}_to_{}", column.key, self.reference), ratio.into());
                }
            }
            Value::from(map)
        };
        serde_json::json!({ "title": self.title, "programs": self.rows.iter().map(program).collect::<Vec<_>>() })
    }
}

/// The middle value; of an even number, the mean of the two in the middle. NaN of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (odd, middle) if odd % 2 == 1 => values[middle],
        (_, middle) => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// A count as a number to divide.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: &[Column] = &[
        Column { heading: "GB/s", key: "rate", decimals: 2, ratio: true },
        Column { heading: "peak MiB", key: "peak", decimals: 0, ratio: false },
    ];

    fn table(names: &[&str]) -> Table<'static> {
        let row = |name: &&str| Row {
            name: (*name).into(),
            note: String::new(),
            figures: if *name == "nc" { vec![1.5, 4.4] } else { vec![3.0, 66.0] },
        };
        Table { title: "t".into(), reference: "nc", columns: COLUMNS, rows: names.iter().map(row).collect() }
    }

    #[test]
    fn medians_ignore_order_and_outliers() {
        assert!((median(vec![9.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 90.0]) - 3.0).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn the_table_has_the_ratios_to_the_reference() {
        let text = table(&["mpnc", "nc"]).markdown();
        assert!(text.contains("| program | GB/s | x nc | peak MiB | remark |\n|---|---|---|---|---|\n"), "{text}");
        assert!(text.contains("| mpnc | 3.00 | 2.00 | 66 |  |\n"), "{text}");
        assert!(table(&["mpnc"]).markdown().contains("| mpnc | 3.00 | - | 66 |"));
    }

    #[test]
    fn the_json_says_the_same() {
        let value = table(&["mpnc", "nc"]).json();
        assert_eq!(value["programs"][0]["name"], "mpnc");
        assert_eq!(value["programs"][0]["rate_to_nc"], 2.0);
        assert_eq!(value["programs"][0].get("peak_to_nc"), None);
        assert_eq!(value["programs"][1]["peak"], 4.4);
    }
}
