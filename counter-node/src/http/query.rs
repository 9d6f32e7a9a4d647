//! Query strings. A parameter that would silently do nothing is refused.

use super::page::decode;
use super::problem::Problem;

/// The parameters of a query, decoded as forms encode them: `+` is a space.
pub(super) fn parameters(query: Option<&str>) -> Result<Vec<(String, String)>, Problem> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |part: &str| decode(&part.replace('+', " ")).map(std::borrow::Cow::into_owned);
            let name = text(name).map_err(|reason| Problem::bad_field(name, reason))?;
            let value = text(value).map_err(|reason| Problem::bad_field(&name, reason))?;
            Ok((name, value))
        })
        .collect()
}

/// Whether `?detail=true` is asked for; nothing else may be.
pub(super) fn detail(query: Option<&str>) -> Result<bool, Problem> {
    let mut detail = false;
    if query.is_none() {
        return Ok(detail);
    }
    for (name, value) in parameters(query)? {
        match (name.as_str(), value.as_str()) {
            ("detail", "true") => detail = true,
            ("detail", "false") => detail = false,
            ("detail", _) => return Err(Problem::bad_field("detail", "must be true or false")),
            _ => return Err(Problem::bad_field(&name, "is not a parameter of this request, which knows `detail` only")),
        }
    }
    Ok(detail)
}

/// For a request that has no parameters.
pub(super) fn none(query: Option<&str>) -> Result<(), Problem> {
    if query.is_none() {
        return Ok(());
    }
    match parameters(query)?.first() {
        Some((name, _)) => Err(Problem::bad_field(name, "is not a parameter of this request, which has none")),
        None => Ok(()),
    }
}
