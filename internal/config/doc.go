// Package config is the configuration of `athena serve`: one struct, Serve,
// whose fields are flags, ATHENA_… variables and keys of a YAML file at once.
//
// A flag --max-streams is the variable ATHENA_MAX_STREAMS and the key
// max_streams. Where several are given, the flag wins over the variable, and
// the variable over the file. Lists replace each other; they don't add up.
//
// Providers are only in the file, under providers:, and in the variables that
// the vendors' own tools read (OPENAI_API_KEY and so on). Those variables
// create the built-in providers; an entry of the file with the same name then
// overrides them field by field. What an entry leaves out it takes from the
// settings, so that a Provider is complete.
//
// The package takes the environment as a parameter and reads no file but the
// ones that it names. It knows what a value must look like, not what it is for.
package config
