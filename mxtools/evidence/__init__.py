"""Where scopes come from: metadata, names, parameters, values, data flow."""
