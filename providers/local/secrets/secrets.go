// Package secrets finds credentials in text of any language: well-known token
// formats by their fixed beginnings, private keys, passwords in URLs, and
// literals with much entropy that are assigned to names such as "api_key".
//
// It is not gitleaks' detection, whose library was tried: it adds 10 MB to the
// binary and 60 modules to the build, and takes 73 ms to set up. The formats
// here are those that their issuers document; each is looked for by a literal
// prefix first, so that text without one costs no regular expression.
package secrets

import (
	"context"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/source"
)

type format struct {
	rules.Rule
	// literals are what text must contain, in lower case, for re to be worth
	// running on the lines that have it.
	literals []string
	re       *regexp.Regexp // group 1 is the secret
	entropy  float64        // least bits per character of the secret
}

const advice = "Revoke it, since it may have been seen, and read the new one from the environment or a secret store."

func f(id, what string, severity protocol.Severity, entropy float64, re string, literals ...string) format {
	return format{rules.Rule{ID: "secret/" + id, Severity: severity, Message: what + " is written into the code.",
		Suggestion: advice, Kinds: rules.Security}, literals, regexp.MustCompile(re), entropy}
}

var formats = []format{
	f("private-key", "A private key", protocol.SeverityCritical, 0, `(-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----)`, "private key"),
	f("aws-access-key", "An AWS access key id", protocol.SeverityCritical, 3, `\b((?:AKIA|ASIA)[A-Z2-7]{16})\b`, "akia", "asia"),
	f("github-token", "A GitHub token", protocol.SeverityCritical, 3, `\b((?:gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,255}))\b`, "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
	f("gitlab-token", "A GitLab token", protocol.SeverityCritical, 3, `\b(glpat-[A-Za-z0-9_-]{20,})`, "glpat-"),
	f("slack-token", "A Slack token", protocol.SeverityCritical, 2.5, `\b(xox[abeprs]-[A-Za-z0-9-]{20,})`, "xox"),
	f("slack-webhook", "A Slack webhook address", protocol.SeverityHigh, 3, `(https://hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{20,})`, "hooks.slack.com"),
	f("stripe-key", "A Stripe live key", protocol.SeverityCritical, 3, `\b((?:sk|rk)_live_[A-Za-z0-9]{20,})\b`, "_live_"),
	f("openai-key", "An OpenAI key", protocol.SeverityCritical, 3.2, `\b(sk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{32,})`, "sk-"),
	f("anthropic-key", "An Anthropic key", protocol.SeverityCritical, 3.2, `\b(sk-ant-[a-z0-9]+-[A-Za-z0-9_-]{32,})`, "sk-ant-"),
	f("google-key", "A Google API key", protocol.SeverityCritical, 3, `\b(AIza[A-Za-z0-9_-]{35})`, "aiza"),
	f("sendgrid-key", "A SendGrid key", protocol.SeverityCritical, 3, `\b(SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43})`, "sg."),
	f("twilio-key", "A Twilio key", protocol.SeverityCritical, 3, `\b(SK[0-9a-f]{32})\b`, "sk"),
	f("npm-token", "An npm token", protocol.SeverityCritical, 3, `\b(npm_[A-Za-z0-9]{36})\b`, "npm_"),
	f("pypi-token", "A PyPI token", protocol.SeverityCritical, 3, `\b(pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,})`, "pypi-"),
	f("huggingface-token", "A Hugging Face token", protocol.SeverityCritical, 3, `\b(hf_[A-Za-z]{34})\b`, "hf_"),
	f("digitalocean-token", "A DigitalOcean token", protocol.SeverityCritical, 3, `\b(do[opr]_v1_[a-f0-9]{64})\b`, "_v1_"),
	f("azure-storage-key", "An Azure storage key", protocol.SeverityCritical, 3.5, `AccountKey=([A-Za-z0-9+/]{86}==)`, "accountkey="),
	f("telegram-token", "A Telegram bot token", protocol.SeverityHigh, 3, `\b([0-9]{8,10}:AA[A-Za-z0-9_-]{33})\b`, ":aa"),
	f("jwt", "A signed JSON web token", protocol.SeverityHigh, 3, `\b(eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,})`, "eyj"),
	f("url-password", "A password in an address", protocol.SeverityHigh, 2, `\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@"'<>]{1,64}:([^\s:/@"'<>]{5,128})@[A-Za-z0-9]`, "://"),
	f("hard-coded", "What looks like a credential", protocol.SeverityHigh, 2.8,
		`(?i)(?:password|passwd|pwd|secret|token|api_?key|apikey|access_?key|private_?key|auth_?key|credential)[a-z0-9_]{0,24}["']?\]?\s{0,8}(?::=|=>|[:=])\s{0,8}(?:string\s{0,4}=\s{0,4})?["'`+"`"+`]([^"'`+"`"+`\s]{8,256})["'`+"`"+`]`,
		"pass", "pwd", "secret", "token", "key", "credential"),
}

// placeholders are parts of what people write where a secret would stand.
var placeholders = regexp.MustCompile(`(?i)example|sample|placeholder|change_?me|your[_-]|dummy|redacted|not[_-]?real|xxxx|\*\*\*\*|\.\.\.|insert|todo|^<.*>$|\$\{|\$\(|%[sdv(]|\{\{|\{[a-z_.]+\}|process\.env|os\.environ|getenv|^(?:test|fake|mock)|^(?:password|secret|token|null|none|undefined|true|false)$|1234567890|abcdef(?:gh|012)`)

// natural is a literal that is words joined by '-', '_', '.', '/' or ':', or in camel case:
// the name of a setting, a header or a message rather than its value.
var natural = regexp.MustCompile(`^(?:[A-Za-z]+[-_./: ])+[A-Za-z]+$|^/|^https?://|^[a-z]+(?:[A-Z][a-z]+)*$`)

// maxLine bounds the part of a line around a literal that is searched.
const maxLine = 4 << 10

// Check looks for secrets in text, line by line in the order of the text.
func Check(ctx context.Context, text *source.Text, emit rules.Emit) {
	code := text.Code()
	wanted := make([]*format, 0, len(formats))
	lower := strings.ToLower(code)
	for i := range formats {
		if containsAny(lower, formats[i].literals) {
			wanted = append(wanted, &formats[i])
		}
	}
	if len(wanted) == 0 {
		return
	}
	for n := 1; n <= text.Lines(); n++ {
		if n%64 == 0 && ctx.Err() != nil {
			return
		}
		line, start := text.Line(n), text.LineStart(n)
		for from := 0; from < len(line); from += maxLine - 512 {
			if from > 0 && ctx.Err() != nil {
				return
			}
			window := line[from:min(from+maxLine, len(line))]
			low := strings.ToLower(window)
			var taken []span // formats go from the particular to the general; the first one wins
			for _, f := range wanted {
				if !containsAny(low, f.literals) {
					continue
				}
				for _, m := range f.re.FindAllStringSubmatchIndex(window, 16) {
					s := span{start + from + m[2], start + from + m[3]}
					cut := m[3] == len(window) && from+maxLine < len(line) // the next window has it whole
					if cut || overlaps(taken, s) || !plausible(f, window[m[2]:m[3]]) {
						continue
					}
					taken = append(taken, s)
					if !emit(rules.Hit{Rule: &f.Rule, Start: s.start, End: s.end, Secret: true}) {
						return
					}
				}
			}
			if from+maxLine >= len(line) {
				break
			}
		}
	}
}

type span struct{ start, end int }

func overlaps(taken []span, s span) bool {
	return slices.ContainsFunc(taken, func(t span) bool { return s.start < t.end && t.start < s.end })
}

func plausible(f *format, secret string) bool {
	if Entropy(secret) < f.entropy || placeholders.MatchString(secret) {
		return false
	}
	if f.ID == "secret/openai-key" {
		return !strings.HasPrefix(secret, "sk-ant-")
	}
	return f.ID != "secret/hard-coded" || !natural.MatchString(secret)
}

func containsAny(s string, literals []string) bool {
	for _, l := range literals {
		if strings.Contains(s, l) {
			return true
		}
	}
	return false
}

// Entropy returns how many bits each byte of s carries, by the frequency of
// the bytes in s.
func Entropy(s string) float64 {
	if s == "" {
		return 0
	}
	var count [256]int
	for i := range len(s) {
		count[s[i]]++
	}
	var e float64
	for _, n := range count {
		if n > 0 {
			p := float64(n) / float64(len(s))
			e -= p * math.Log2(p)
		}
	}
	return e
}
