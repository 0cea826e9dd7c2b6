package gocheck

import "strings"

type example struct{ hit, miss string }

// in puts statements in a file that imports what they name.
func in(imports, body string) string {
	var b strings.Builder
	b.WriteString("package p\n")
	for path := range strings.FieldsSeq(imports) {
		b.WriteString("import \"" + path + "\"\n")
	}
	return b.String() + "func f() {\n" + body + "\n}\n"
}

// examples hold, for each rule, code that it must find and code like it that
// it must not.
var examples = map[string]example{
	"go/syntax":   {"package p\nfunc f( {", "package p\nfunc f() {}"},
	"go/too-deep": {"package p\nvar x = " + strings.Repeat("(", 2000) + "1" + strings.Repeat(")", 2000), "package p\nvar x = " + strings.Repeat("(", 50) + "1" + strings.Repeat(")", 50)},

	"go/sql-injection": {in("fmt", `q := fmt.Sprintf("SELECT a FROM t WHERE id = %s", id); db.Query(q)`),
		in("fmt", `const table = "t"; db.Query("SELECT a FROM " + table + " WHERE id = ?", id); db.Exec(fmt.Sprintf("SELECT %d", 1))`)},
	"go/command-injection":       {in("os/exec", `exec.Command("sh", "-c", "ls "+dir)`), in("os/exec", `exec.Command("sh", "-c", "ls"); exec.Command("ls", dir)`)},
	"go/exec-variable":           {in("os/exec", `exec.CommandContext(ctx, name)`), in("os/exec", `exec.CommandContext(ctx, "ls", name)`)},
	"go/path-traversal":          {in("os net/http", `name := r.URL.Query().Get("f"); os.Open("/srv/" + name)`), in("os net/http", `os.Open("/srv/" + name); os.Open(filepath.Base(other))`)},
	"go/request-forgery":         {in("net/http", `http.Get(r.FormValue("u"))`), in("net/http", `http.Get("https://x.example/" + page)`)},
	"go/open-redirect":           {in("net/http", `http.Redirect(w, r, r.FormValue("to"), 302)`), in("net/http", `http.Redirect(w, r, "/home", 302)`)},
	"go/response-xss":            {in("fmt", `fmt.Fprintf(w, "hi %s", r.FormValue("n"))`), in("fmt html", `fmt.Fprintf(w, "hi %s", html.EscapeString(r.FormValue("n"))); fmt.Fprintf(w, "hi %s", n)`)},
	"go/template-unescaped":      {in("html/template", `template.HTML(x)`), in("html/template", `template.HTML("<hr>")`)},
	"go/world-writable":          {in("os", `os.Chmod("f", 0o777)`), in("os", `os.Chmod("f", 0o755)`)},
	"go/server-without-timeouts": {in("net/http", `_ = &http.Server{Addr: ":1"}`), in("net/http", `_ = &http.Server{Addr: ":1", ReadHeaderTimeout: t}`)},
	"go/unbounded-body":          {in("io", `io.ReadAll(r.Body)`), in("io", `io.ReadAll(io.LimitReader(r.Body, 9))`)},
	"go/pprof-exposed":           {"package p\nimport _ \"net/http/pprof\"", "package p\nimport \"runtime/pprof\""},
	"go/archive-traversal":       {in("archive/zip path/filepath", `filepath.Join(dir, f.Name)`), in("archive/zip path/filepath", `if filepath.IsLocal(f.Name) { filepath.Join(dir, f.Name) }`)},
	"go/unsafe":                  {"package p\nimport \"unsafe\"", "package p\nimport \"x.example/unsafe\""},

	"go/tls-verify-off":       {in("crypto/tls", `_ = tls.Config{InsecureSkipVerify: true}`), in("crypto/tls", `_ = tls.Config{InsecureSkipVerify: false}`)},
	"go/tls-old-version":      {in("crypto/tls", `_ = tls.Config{MinVersion: tls.VersionTLS10}`), in("crypto/tls", `_ = tls.Config{MinVersion: tls.VersionTLS12}`)},
	"go/weak-random":          {in("math/rand", `token := rand.Int()`), in("math/rand", `dice := rand.Intn(6)`)},
	"go/weak-hash":            {in("crypto/md5", `h := md5.New()`), in("crypto/sha256", `h := sha256.New()`)},
	"go/weak-cipher":          {in("crypto/des", `des.NewCipher(k)`), in("crypto/aes", `aes.NewCipher(k)`)},
	"go/short-rsa-key":        {in("crypto/rsa", `rsa.GenerateKey(r, 1024)`), in("crypto/rsa", `rsa.GenerateKey(r, 2048)`)},
	"go/ssh-host-key-ignored": {in("golang.org/x/crypto/ssh", `ssh.InsecureIgnoreHostKey()`), in("golang.org/x/crypto/ssh", `ssh.FixedHostKey(k)`)},
	"go/secret-compare":       {in("", `if signature == wantSignature { g() }`), in("", `if signature == nil { g() }; if tokens == count { g() }`)},

	"go/ignored-error":       {in("strconv", `n, _ := strconv.Atoi(s)`), in("strconv", `n, err := strconv.Atoi(s); m, _ := strconv.Unknown(s)`)},
	"go/empty-error-branch":  {in("", `if err != nil { }`), in("", "if err != nil {\n// nothing can be done\n}")},
	"go/error-text":          {in("", `if err.Error() == "x" { g() }`), in("errors", `if errors.Is(err, x) { g(err.Error()) }`)},
	"go/defer-in-loop":       {in("", `for { defer g() }`), in("", `for { func() { defer g() }() }`)},
	"go/body-not-closed":     {in("net/http", `resp, err := http.Get(u); g(resp.Status)`), in("net/http", `resp, err := http.Get(u); defer resp.Body.Close()`)},
	"go/context-leak":        {in("context", `ctx, _ := context.WithCancel(c)`), in("context", `ctx, cancel := context.WithCancel(c); defer cancel()`)},
	"go/nil-map-write":       {in("", `var m map[string]int; m["a"] = 1`), in("", `var m map[string]int; m = g(); m["a"] = 1`)},
	"go/constant-condition":  {in("", `if true { g() }`), in("", `if truth { g() }`)},
	"go/defer-after-nothing": {in("os", "h, err := os.Open(n)\ndefer h.Close()"), in("os", "h, err := os.Open(n)\nif err != nil { return }\ndefer h.Close()")},
	"go/exit-skips-defer":    {in("os", `defer g(); os.Exit(1)`), in("os", `defer g(); h(func() { os.Exit(1) })`)},

	"go/empty-critical-section": {in("", "mu.Lock()\nmu.Unlock()"), in("", "mu.Lock()\ndefer mu.Unlock()")},
	"go/deferred-lock":          {in("", `defer mu.Lock()`), in("", `defer mu.Unlock()`)},
	"go/waitgroup-add-inside":   {in("", `go func() { wg.Add(1); g() }()`), in("", `wg.Add(1); go func() { defer wg.Done(); g() }()`)},
	"go/copied-lock":            {"package p\nimport \"sync\"\nfunc f(mu sync.Mutex) {}", "package p\nimport \"sync\"\nfunc f(mu *sync.Mutex) {}"},
	"go/busy-wait":              {in("", "for { select { case <-c: return\n default: } }"), in("", "for { select { case <-c: return\n default: g() } }")},
	"go/unbuffered-signal":      {in("os os/signal", `c := make(chan os.Signal); signal.Notify(c)`), in("os os/signal", `c := make(chan os.Signal, 1); signal.Notify(c)`)},

	"go/regexp-in-loop":         {in("regexp", `for { regexp.MustCompile("a") }`), in("regexp", `re := regexp.MustCompile("a"); for { regexp.MustCompile(x); re.Find(b) }`)},
	"go/concat-in-loop":         {in("", `for { s += "a" }`), in("", `s += "a"; for { n += 1 }`)},
	"go/client-without-timeout": {in("net/http", `c := http.Client{}`), in("net/http", `c := http.Client{Timeout: t}`)},
	"go/timer-in-loop":          {in("time", `for { <-time.After(d) }`), in("time", `<-time.After(d)`)},
	"go/sprint-of-number":       {in("fmt", `for { fmt.Sprintf("%d", n) }`), in("fmt", `for { fmt.Sprintf("n %d", n) }`)},

	"go/vet-unreachable":   {in("", "return\ng()"), in("", "if x { return }\ng()")},
	"go/vet-directive":     {"package p\n\n//go:debug x=1\nfunc f() {}", "package p\n\n// go:debug is a directive\nfunc f() {}"},
	"go/vet-assign":        {in("", "x := 1\nx = x\ng(x)"), in("", "x, y := 1, 2\nx = y\ng(x)")},
	"go/vet-bools":         {in("", "x := 1\nif x != 1 || x != 2 { g() }"), in("", "x := 1\nif x != 1 && x != 2 { g() }")},
	"go/vet-ifaceassert":   {"package p\ntype A interface{ M() }\ntype B interface{ M(int) }\nfunc f(a A) { _ = a.(B) }", "package p\ntype A interface{ M() }\ntype B interface{ N(int) }\nfunc f(a A) { _ = a.(B) }"},
	"go/vet-nilfunc":       {"package p\nfunc g() {}\nfunc f() { if g == nil { f() } }", "package p\nvar g func()\nfunc f() { if g == nil { f() } }"},
	"go/vet-stdmethods":    {"package p\ntype T int\nfunc (T) MarshalJSON() string { return \"\" }", "package p\ntype T int\nfunc (T) MarshalJSON() ([]byte, error) { return nil, nil }"},
	"go/vet-stringintconv": {"package p\nfunc f(n int) string { return string(n) }", "package p\nfunc f(n rune) string { return string(n) }"},
	"go/vet-structtag":     {"package p\ntype T struct { A int `json:a` }", "package p\ntype T struct { A int `json:\"a\"` }"},
}
