package auth

// A JWT verifies tokens.
type JWT struct{}

func (*JWT) verify(string) (Identity, error) { return Identity{}, errToken }
