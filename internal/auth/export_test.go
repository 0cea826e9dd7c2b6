package auth

// ParseJWKS counts the keys of a set.
func ParseJWKS(b []byte) (int, error) {
	keys, err := parseJWKS(b)
	return len(keys), err
}
