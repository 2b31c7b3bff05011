//! Results: as a Markdown table, and as JSON.

use serde_json::{json, Map, Value as Json};

/// Target value of a figure.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// No target.
    None,
}

/// A measured figure.
#[derive(Debug, Clone)]
pub struct Figure {
    /// Scenario that measured it.
    pub scenario: &'static str,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub goal: Goal,
    /// Details of the measurement.
    pub note: String,
}

impl Figure {
    /// Returns whether the goal is reached; None without a goal.
    pub fn reached(&self) -> Option<bool> {
        match self.goal {
            Goal::AtLeast(goal) => Some(self.value >= goal),
            Goal::AtMost(goal) => Some(self.value <= goal),
            Goal::None => None,
        }
    }

    /// Formats the goal.
    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtLeast(goal) => format!("≥ {}", with_unit(goal, self.unit)),
            Goal::AtMost(goal) => format!("≤ {}", with_unit(goal, self.unit)),
            Goal::None => String::new(),
        }
    }

    /// Returns the row of the table.
    fn row(&self) -> [String; 6] {
        let reached = self.reached().map_or("", |reached| if reached { "yes" } else { "no" });
        let value = with_unit(self.value, self.unit);
        [self.scenario.to_string(), self.what.clone(), value, self.goal_text(), reached.to_string(), self.note.clone()]
    }

    /// Converts the figure to JSON.
    fn json(&self) -> Json {
        let (least, most) = match self.goal {
            Goal::AtLeast(goal) => (Some(goal), None),
            Goal::AtMost(goal) => (None, Some(goal)),
            Goal::None => (None, None),
        };
        json!({
            "scenario": self.scenario, "what": self.what, "value": self.value, "unit": self.unit,
            "at_least": least, "at_most": most, "reached": self.reached(), "note": self.note,
        })
    }
}

/// Formats a number with three significant digits.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.1} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Formats a number with its unit.
fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "" => digits(value),
        "×" => format!("{} ×", digits(value)),
        _ => format!("{} {unit}", digits(value)),
    }
}

/// Results of a run.
#[derive(Default)]
pub struct Results {
    figures: Vec<Figure>,
    tables: Vec<String>,
    details: Map<String, Json>,
}

impl Results {
    /// Adds a figure and prints it.
    pub fn add(
        &mut self,
        scenario: &'static str,
        what: &str,
        value: f64,
        unit: &'static str,
        goal: Goal,
        note: impl Into<String>,
    ) {
        let figure = Figure { scenario, what: what.to_string(), value, unit, goal, note: note.into() };
        eprintln!("   {}", figure.row().map(|cell| if cell.is_empty() { "–".into() } else { cell }).join(" | "));
        self.figures.push(figure);
    }

    /// Adds a table, printed below that of the figures.
    pub fn add_table(&mut self, title: &str, head: &[&str], rows: &[Vec<String>]) {
        let head: Vec<String> = head.iter().map(|cell| cell.to_string()).collect();
        self.tables.push(format!("{title}\n\n{}", markdown(&head, rows)));
    }

    /// Adds a value to the `details` of the JSON file.
    pub fn detail(&mut self, name: &str, value: Json) {
        self.details.insert(name.to_string(), value);
    }

    /// Formats the tables.
    pub fn markdown(&self) -> String {
        let head = ["scenario", "what", "measured", "goal", "reached", "how"].map(str::to_string);
        let rows: Vec<Vec<String>> = self.figures.iter().map(|figure| figure.row().to_vec()).collect();
        let figures = (!rows.is_empty()).then(|| markdown(&head, &rows));
        figures.into_iter().chain(self.tables.iter().cloned()).collect::<Vec<_>>().join("\n")
    }

    /// Converts the results to JSON.
    pub fn json(&self, machine: Json) -> Json {
        let figures: Vec<Json> = self.figures.iter().map(Figure::json).collect();
        json!({ "machine": machine, "figures": figures, "details": self.details })
    }
}

/// Formats a Markdown table.
fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|{}\n", " --- |".repeat(head.len()));
    [line(head), rule].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}
