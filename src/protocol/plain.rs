//! Plain HTTP requests: the few pages that are served beside WebSockets, and the methods they take.

/// What a plain request asks for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The page.
    Get,
    /// Its headers alone (RFC 9110 §9.3.2).
    Head,
}

/// The pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlainPath {
    /// `/health`: whether all is well.
    Health,
    /// `/health/live`: whether the process turns.
    HealthLive,
    /// `/health/ready`: whether new connections are taken.
    HealthReady,
    /// `/metrics`: Prometheus text.
    Metrics,
}

/// A plain request that has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlainRequest {
    /// What is asked for the page.
    pub method: Method,
    /// The page.
    pub path: PlainPath,
}

impl Method {
    /// The methods that every page takes, as the header `Allow` lists them.
    pub const ALLOWED: &'static str = "GET, HEAD";

    /// The method of that name; `None` for those that no page takes. Names are case-sensitive (RFC 9110 §9.1).
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "GET" => Some(Self::Get),
            "HEAD" => Some(Self::Head),
            _ => None,
        }
    }
}

impl PlainPath {
    /// The page at `path`, whatever follows a `?`; `None` where there is none. Paths are taken to the letter:
    /// not percent-decoded, and with a slash at the end they are others.
    pub fn from_path(path: &str) -> Option<Self> {
        match path.split_once('?').map_or(path, |(path, _query)| path) {
            "/health" => Some(Self::Health),
            "/health/live" => Some(Self::HealthLive),
            "/health/ready" => Some(Self::HealthReady),
            "/metrics" => Some(Self::Metrics),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_does_not_change_the_page() {
        assert_eq!(PlainPath::from_path("/health?verbose=1"), Some(PlainPath::Health));
        assert_eq!(PlainPath::from_path("/metrics?"), Some(PlainPath::Metrics));
        assert_eq!(PlainPath::from_path("/health/live"), Some(PlainPath::HealthLive));
        assert_eq!(PlainPath::from_path("/health/ready?a?b"), Some(PlainPath::HealthReady));
    }

    #[test]
    fn what_is_not_a_page_to_the_letter_is_none() {
        for path in
            ["", "/", "/ws", "/health/", "/Health", "/%68ealth", "//health", "/metrics#a", "health", "/metricsx"]
        {
            assert_eq!(PlainPath::from_path(path), None, "{path}");
        }
    }

    #[test]
    fn methods_are_told_by_their_exact_names() {
        assert_eq!(Method::from_name("GET"), Some(Method::Get));
        assert_eq!(Method::from_name("HEAD"), Some(Method::Head));
        assert_eq!(Method::from_name("get"), None);
        assert_eq!(Method::from_name("POST"), None);
    }
}
