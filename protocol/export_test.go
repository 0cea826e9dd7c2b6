package protocol

// AppendString appends s as a JSON string. See appendEscaped for what it does
// to characters that need care.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	b = appendEscaped(b, s)
	return append(b, '"')
}

// Canonical is the form of r whose digest is its CacheKey.
func Canonical(r *Request) []byte { return canonical(r) }
