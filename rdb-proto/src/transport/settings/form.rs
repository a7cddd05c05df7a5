//! How a setting is written in a file.

use std::any::TypeId;

use clap::Arg;
use toml::Value;

/// The form of a setting's value. It follows from the argument's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Number,
    Text,
    /// Texts in brackets, or one text with the delimiter of the flag.
    List,
    /// `true` or `false`. The flag takes no value.
    Switch,
}

impl Form {
    pub(super) fn of(argument: &Arg) -> Self {
        let parsed = argument.get_value_parser().type_id();
        let numbers = [
            TypeId::of::<u16>(),
            TypeId::of::<u32>(),
            TypeId::of::<u64>(),
            TypeId::of::<usize>(),
        ];
        if argument.get_value_delimiter().is_some() {
            Self::List
        } else if numbers.into_iter().any(|number| parsed == number) {
            Self::Number
        } else if parsed == TypeId::of::<bool>() {
            Self::Switch
        } else {
            Self::Text
        }
    }

    /// A value of a file as values of the flag. `None`: it has another form.
    pub(super) fn flag_values(self, value: &Value) -> Option<Vec<String>> {
        match (self, value) {
            (Self::Number, Value::Integer(number)) => Some(vec![number.to_string()]),
            (Self::Switch, Value::Boolean(is_on)) => Some(vec![is_on.to_string()]),
            (Self::Text | Self::List, Value::String(text)) => Some(vec![text.clone()]),
            (Self::List, Value::Array(values)) => {
                let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
                texts.collect()
            }
            _ => None,
        }
    }

    /// Values of the flag as a value of a file.
    pub(super) fn file_value(self, mut flag_values: Vec<String>) -> Value {
        match self {
            Self::List => flag_values.into(),
            Self::Switch => Value::Boolean(flag_values.pop().is_some_and(|text| text == "true")),
            Self::Number | Self::Text => {
                let text = flag_values.pop().unwrap_or_default();
                match text.parse() {
                    // A file knows neither a leading zero nor a sign, which the flag admits.
                    Ok(number) if self == Self::Number => Value::Integer(number),
                    _ => Value::String(text),
                }
            }
        }
    }

    /// What a value of this form looks like, with the name that the help has for it.
    pub(super) fn example(self, argument: &Arg) -> String {
        let names = argument.get_value_names().unwrap_or_default();
        let name = names.first().map_or("…", |name| name.as_str());
        match self {
            Self::Number => name.to_owned(),
            Self::Text => format!("\"{name}\""),
            Self::List => format!("[\"{name}\", …]"),
            Self::Switch => "true".to_owned(),
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::Number => "a whole number without quotes",
            Self::Text => "text in quotes",
            Self::List => "a list of texts in quotes",
            Self::Switch => "true or false without quotes",
        }
    }
}
