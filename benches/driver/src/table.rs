//! What was measured: as a table for people, and as JSON.

use serde_json::{json, Map, Value as Json};

#[derive(Debug, Clone, Copy)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Told for what it is; nothing was promised.
    None,
}

/// One figure of "What to reach".
#[derive(Debug, Clone)]
pub struct Figure {
    /// Which point it belongs to.
    pub point: u8,
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub goal: Goal,
    /// How it came about.
    pub note: String,
}

impl Figure {
    pub fn reached(&self) -> Option<bool> {
        match self.goal {
            Goal::AtLeast(goal) => Some(self.value >= goal),
            Goal::AtMost(goal) => Some(self.value <= goal),
            Goal::None => None,
        }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtLeast(goal) => format!("≥ {}", with_unit(goal, self.unit)),
            Goal::AtMost(goal) => format!("≤ {}", with_unit(goal, self.unit)),
            Goal::None => String::new(),
        }
    }

    fn row(&self) -> [String; 6] {
        let reached = self.reached().map_or("", |reached| if reached { "yes" } else { "no" });
        let value = with_unit(self.value, self.unit);
        [self.point.to_string(), self.what.clone(), value, self.goal_text(), reached.to_string(), self.note.clone()]
    }

    fn json(&self) -> Json {
        let (least, most) = match self.goal {
            Goal::AtLeast(goal) => (Some(goal), None),
            Goal::AtMost(goal) => (None, Some(goal)),
            Goal::None => (None, None),
        };
        json!({
            "point": self.point, "what": self.what, "value": self.value, "unit": self.unit,
            "at_least": least, "at_most": most, "reached": self.reached(), "note": self.note,
        })
    }
}

/// Three digits that say something.
pub fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.1} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "" => digits(value),
        "×" => format!("{} ×", digits(value)),
        _ => format!("{} {unit}", digits(value)),
    }
}

/// What is in the report of a run.
#[derive(Default)]
pub struct Results {
    figures: Vec<Figure>,
    tables: Vec<String>,
    details: Map<String, Json>,
}

impl Results {
    pub fn add(&mut self, point: u8, what: &str, value: f64, unit: &'static str, goal: Goal, note: impl Into<String>) {
        let figure = Figure { point, what: what.to_string(), value, unit, goal, note: note.into() };
        eprintln!("   {}", figure.row().map(|cell| if cell.is_empty() { "–".into() } else { cell }).join(" | "));
        self.figures.push(figure);
    }

    /// A further table, under those of the figures.
    pub fn add_table(&mut self, title: &str, head: &[&str], rows: &[Vec<String>]) {
        let head: Vec<String> = head.iter().map(|cell| cell.to_string()).collect();
        self.tables.push(format!("{title}\n\n{}", markdown(&head, rows)));
    }

    pub fn detail(&mut self, name: &str, value: Json) {
        self.details.insert(name.to_string(), value);
    }

    pub fn markdown(&self) -> String {
        let head = ["point", "what", "measured", "goal", "reached", "how"].map(str::to_string);
        let mut figures: Vec<&Figure> = self.figures.iter().collect();
        figures.sort_by_key(|figure| figure.point);
        let rows: Vec<Vec<String>> = figures.iter().map(|figure| figure.row().to_vec()).collect();
        let figures = (!rows.is_empty()).then(|| markdown(&head, &rows));
        figures.into_iter().chain(self.tables.iter().cloned()).collect::<Vec<_>>().join("\n")
    }

    pub fn json(&self, machine: Json) -> Json {
        let figures: Vec<Json> = self.figures.iter().map(Figure::json).collect();
        json!({ "machine": machine, "figures": figures, "details": self.details })
    }
}

fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule = format!("|{}\n", " --- |".repeat(head.len()));
    [line(head), rule].into_iter().chain(rows.iter().map(|row| line(row))).collect()
}
