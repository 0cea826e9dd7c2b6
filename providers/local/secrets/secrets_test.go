package secrets_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/athena-hub/athena/providers/local/rules"
	"github.com/athena-hub/athena/providers/local/secrets"
	"github.com/athena-hub/athena/providers/local/source"
)

// mixed has the entropy of a real token; the tests put their values together
// from it so that no scanner takes this file's for real ones.
const mixed = "q7Zr2Xk9Vb4Nm8Lc1Wd6Hf3Jg5Ts0Py7Ru2Ea9Oi4Kx8Zq1Vw6Bn3Mc5LdF0hG"

var hexed = strings.Repeat("3f9a0c7be1d24856", 4)

var examples = map[string]struct{ hit, miss string }{
	"secret/private-key":        {"-----BEGIN RSA " + "PRIVATE KEY-----", "-----BEGIN PUBLIC KEY-----"},
	"secret/aws-access-key":     {"AKIA" + "QZ7RXK3VBN4M2LCW", "AKIAIOSFODNN7EXAMPLE"},
	"secret/github-token":       {"ghp_" + mixed[:36], "ghp_" + strings.Repeat("x", 36)},
	"secret/gitlab-token":       {"glpat-" + mixed[:20], "glpat-short"},
	"secret/slack-token":        {"xoxb-" + mixed[:30], "xoxb-"},
	"secret/slack-webhook":      {"https://hooks.slack.com/services/T0AB1/B0CD2/" + mixed[:24], "https://hooks.slack.com/services/"},
	"secret/stripe-key":         {"sk_live_" + mixed[:24], "sk_test_" + mixed[:24]},
	"secret/openai-key":         {"sk-proj-" + mixed[:48], "sk-learn-and-other-libraries"},
	"secret/anthropic-key":      {"sk-ant-api03-" + mixed[:60], "sk-ant-your-key"},
	"secret/google-key":         {"AIza" + mixed[:35], "AIza" + mixed[:10]},
	"secret/sendgrid-key":       {"SG." + mixed[:22] + "." + mixed[:43], "SG.a.b"},
	"secret/twilio-key":         {"SK" + hexed[:32], "SK" + strings.Repeat("0", 32)},
	"secret/npm-token":          {"npm_" + mixed[:36], "npm_config_registry"},
	"secret/pypi-token":         {"pypi-AgEIcHlwaS5vcmc" + mixed[:55], "pypi-server"},
	"secret/huggingface-token":  {"hf_" + "qZrXkVbNmLcWdHfJgTsPyRuEaOiKxBwYtQ", "hf_hub_download"},
	"secret/digitalocean-token": {"dop_v1_" + hexed, "dop_v1_" + strings.Repeat("0", 64)},
	"secret/azure-storage-key":  {"AccountKey=" + (mixed + mixed)[:86] + "==", "AccountKey=abc"},
	"secret/telegram-token":     {"123987456:AA" + mixed[:33], "12:AAA"},
	"secret/jwt":                {"eyJ" + mixed[:20] + ".eyJ" + mixed[:30] + "." + mixed[:43], "eyJhbGciOiJIUzI1NiJ9"},
	"secret/url-password":       {"postgres://app:" + mixed[:12] + "@db.internal/x", "postgres://app:${PASSWORD}@db.internal/x"},
	"secret/hard-coded":         {`db_password = "` + mixed[:14] + `"`, `password = "changeme-please"; secret_name = "db-password"; token = os.environ["TOKEN_VALUE"]`},
}

func found(t *testing.T, code string) (ids, texts []string) {
	text := source.New(code)
	secrets.Check(t.Context(), text, func(h rules.Hit) bool {
		if !h.Secret {
			t.Errorf("%s is not marked as a secret", h.Rule.ID)
		}
		ids, texts = append(ids, h.Rule.ID), append(texts, code[h.Start:h.End])
		return true
	})
	return ids, texts
}

func TestEveryFormatHasAHitAndANearMiss(t *testing.T) {
	for _, r := range secrets.Rules() {
		e, ok := examples[r.ID]
		if !ok {
			t.Errorf("rule %s has no example", r.ID)
			continue
		}
		if ids, _ := found(t, "x\n v = "+e.hit+"\n"); !slices.Equal(ids, []string{r.ID}) {
			t.Errorf("in %q found %q, want %s once", e.hit, ids, r.ID)
		}
		if ids, _ := found(t, e.miss); slices.Contains(ids, r.ID) {
			t.Errorf("in the near miss %q found %q", e.miss, ids)
		}
	}
}

func TestASecretInALongLineIsFoundOnceAndWhole(t *testing.T) {
	token := "ghp_" + mixed[:36]
	for _, before := range []int{0, 3500, 3580, 4090, 8000} {
		_, texts := found(t, strings.Repeat("a ", before/2)+token+strings.Repeat(" b", 5000))
		slices.Sort(texts)
		if !slices.Equal(slices.Compact(texts), []string{token}) {
			t.Errorf("after %d bytes: found %q", before, texts)
		}
	}
}
