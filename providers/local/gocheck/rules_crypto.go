package gocheck

import (
	"go/ast"
	"go/token"
	"regexp"
	"strconv"
	"strings"
)

var secretName = regexp.MustCompile(`(?i)token|secret|passw|session|nonce|salt|otp|csrf|apikey|key$`)

var cryptoRules = []astRule{
	rule("tls-verify-off", high, sec, "Certificates are not checked, so anyone on the way can read and change the traffic.",
		"Leave the check on; set RootCAs if there is a private authority.", func(p *pass) {
			for _, kv := range all[*ast.KeyValueExpr](p) {
				if ident(kv.Key) == "InsecureSkipVerify" && ident(kv.Value) == "true" {
					p.report(kv)
				}
			}
			for _, a := range all[*ast.AssignStmt](p) {
				for i, l := range a.Lhs {
					if s, ok := l.(*ast.SelectorExpr); ok && s.Sel.Name == "InsecureSkipVerify" && i < len(a.Rhs) && ident(a.Rhs[i]) == "true" {
						p.report(a)
					}
				}
			}
		}),
	rule("tls-old-version", medium, sec, "This version of TLS is broken and no longer supported.", "Use tls.VersionTLS12 or newer.", func(p *pass) {
		for _, s := range all[*ast.SelectorExpr](p) {
			if n := p.name(s); n == "crypto/tls.VersionSSL30" || n == "crypto/tls.VersionTLS10" || n == "crypto/tls.VersionTLS11" {
				p.report(s)
			}
		}
	}),
	rule("weak-random", high, sec, "A predictable random number becomes a secret.", "Use crypto/rand.", func(p *pass) {
		for c, call := range all[*ast.CallExpr](p) {
			if n := p.name(call.Fun); !strings.HasPrefix(n, "math/rand.") {
				continue
			}
			for e := range c.Enclosing((*ast.AssignStmt)(nil), (*ast.ValueSpec)(nil), (*ast.FuncDecl)(nil)) {
				names := []string{}
				switch n := e.Node().(type) {
				case *ast.AssignStmt:
					for _, l := range n.Lhs {
						names = append(names, path(l))
					}
				case *ast.ValueSpec:
					for _, i := range n.Names {
						names = append(names, i.Name)
					}
				case *ast.FuncDecl:
					names = append(names, n.Name.Name)
				}
				if secretName.MatchString(strings.Join(names, "\n")) {
					p.report(call)
					break
				}
			}
		}
	}),
	rule("weak-hash", medium, sec, "MD5 and SHA-1 are broken: collisions can be made, and passwords under them are guessed quickly.",
		"Use SHA-256 for digests, and bcrypt, scrypt or Argon2 for passwords.", func(p *pass) {
			for _, call := range p.calls("crypto/md5.New", "crypto/md5.Sum", "crypto/sha1.New", "crypto/sha1.Sum") {
				p.report(call)
			}
		}),
	rule("weak-cipher", high, sec, "This cipher is weak: its key is too short, or its stream leaks it.", "Use AES-GCM or ChaCha20-Poly1305.", func(p *pass) {
		for _, call := range p.calls("crypto/des.NewCipher", "crypto/des.NewTripleDESCipher", "crypto/rc4.NewCipher") {
			p.report(call)
		}
	}),
	rule("short-rsa-key", high, sec, "An RSA key of this length can be broken.", "Use 2048 bits or more, or Ed25519.", func(p *pass) {
		for _, call := range p.calls("crypto/rsa.GenerateKey") {
			if len(call.Args) != 2 {
				continue
			}
			if l, ok := call.Args[1].(*ast.BasicLit); ok && l.Kind == token.INT {
				if n, err := strconv.Atoi(l.Value); err == nil && n < 2048 {
					p.report(l)
				}
			}
		}
	}),
	rule("ssh-host-key-ignored", high, sec, "The server's key is not checked, so anyone on the way can be it.", "Use knownhosts.New.", func(p *pass) {
		for _, call := range p.calls("golang.org/x/crypto/ssh.InsecureIgnoreHostKey") {
			p.report(call)
		}
	}),
	rule("secret-compare", low, sec, "== on a secret takes longer the more of it is right.", "Use subtle.ConstantTimeCompare or hmac.Equal.", func(p *pass) {
		for _, b := range all[*ast.BinaryExpr](p) {
			if b.Op != token.EQL && b.Op != token.NEQ {
				continue
			}
			x, y := path(b.X), path(b.Y)
			if x == "" || y == "" || y == "nil" || x == "nil" {
				continue
			}
			re := secretCompare
			if re.MatchString(x) && re.MatchString(y) {
				p.report(b)
			}
		}
	}),
}

var secretCompare = regexp.MustCompile(`(?i)(?:signature|hmac|mac|token|secret|password|passwd|digest)$`)
