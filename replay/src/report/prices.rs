//! The table of prices: a file in the repository, with its date and where the figures come from.

use std::path::Path;

use serde::Deserialize;

use crate::ReplayError;

/// The one that comes with the program.
const OWN: &str = include_str!("../../prices.toml");

/// Prices of one region at one time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prices {
    pub(crate) as_of: String,
    pub(crate) region: String,
    pub(crate) currency: String,
    pub(crate) sources: Vec<String>,
    #[serde(rename = "class")]
    pub(crate) classes: Vec<Class>,
}

/// What one storage class costs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Class {
    /// As S3 names it.
    pub(crate) name: String,
    /// A GB is 2^30 bytes.
    pub(crate) storage_gb_month: f64,
    pub(crate) put_1000: f64,
    pub(crate) get_1000: f64,
    pub(crate) retrieval_gb: f64,
    /// Smaller objects are billed as if they had this many bytes.
    pub(crate) object_bytes_min: u64,
    /// Objects that are kept for less are billed for this many days.
    pub(crate) days_min: u32,
}

impl Prices {
    /// Reads a table, the program's own where no file is named.
    ///
    /// # Errors
    /// The file cannot be read or is no such table.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self, ReplayError> {
        let Some(file) = file else { return Self::parse(OWN, "the program's own prices") };
        let text = std::fs::read_to_string(file).map_err(ReplayError::io("read", file))?;
        Self::parse(&text, &file.to_string_lossy())
    }

    fn parse(text: &str, place: &str) -> Result<Self, ReplayError> {
        let bad = |what: String| ReplayError::Usage(format!("{}: {what}", casemate_screen::safe::visible(place)));
        let prices: Self = toml::from_str(text).map_err(|error| bad(error.message().to_owned()))?;
        let good = |class: &Class| {
            let figures = [class.storage_gb_month, class.put_1000, class.get_1000, class.retrieval_gb];
            figures.iter().all(|figure| figure.is_finite() && *figure >= 0.0)
        };
        match prices.classes.iter().find(|class| !good(class)) {
            Some(class) => Err(bad(format!("class {}: a price is no number from 0", class.name))),
            None if prices.classes.is_empty() => Err(bad("no [[class]]".to_owned())),
            None => Ok(prices),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_repository_is_dated_and_names_its_sources() {
        let prices = Prices::read(None).unwrap();
        assert!(prices.as_of.parse::<jiff::civil::Date>().is_ok(), "{}", prices.as_of);
        assert_eq!((prices.region.as_str(), prices.currency.as_str()), ("us-east-1", "USD"));
        assert!(!prices.sources.is_empty());
        let names: Vec<_> = prices.classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["STANDARD", "STANDARD_IA", "GLACIER_IR"]);
    }

    #[test]
    fn a_table_that_makes_no_sense_is_refused() {
        for (from, to) in
            [("put_1000 = 0.02", "put_1000 = -1.0"), ("as_of", "of"), ("0.023", "nan"), ("[[class]]", "[[klass]]")]
        {
            assert_eq!(Prices::parse(&OWN.replace(from, to), "x").unwrap_err().exit_code(), 2, "{to}");
        }
    }
}
