package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/athena-hub/athena/protocol"
	"github.com/athena-hub/athena/providers"
	"github.com/athena-hub/athena/providers/providertest"
)

// knowing is a server that has these models, and answers 404 to requests for
// others.
func knowing(t *testing.T, models ...string) *providertest.Upstream {
	t.Helper()
	up := providertest.NewUpstream(t, providertest.Script{})
	up.SetModels(models...)
	up.SetReply(func(c *providertest.Call) providertest.Script {
		if !slices.Contains(models, askedModel(c)) {
			return providertest.Script{Fault: providertest.Fault{Kind: providertest.FaultStatus, Status: http.StatusNotFound,
				Body: `{"error":{"message":"model not found"}}`}}
		}
		return providertest.Script{Pieces: providertest.Texts("yes")}
	})
	return up
}

// askedModel is the model that c is for.
func askedModel(c *providertest.Call) string {
	var body struct {
		Model string `json:"model"`
	}
	if err := json.Unmarshal(c.Body, &body); err != nil {
		return fmt.Sprintf("(%v)", err)
	}
	return body.Model
}

// learned is the provider "mine" of an entry with these keys, after the start, and the log.
func learned(t *testing.T, entry string) (providers.Provider, *sink) {
	t.Helper()
	_, u, err := configured(t, "providers: {mine: {"+entry+"}}\n")
	if err != nil {
		t.Fatal(err)
	}
	log := newSink()
	if err := u.learnModels(t.Context(), zerolog.New(log)); err != nil {
		t.Fatal(err)
	}
	return u.entries[0].Provider, log
}

// says asks p, and returns the answer's text.
func says(t *testing.T, p providers.Provider, model string) (string, error) {
	t.Helper()
	s, err := p.Stream(t.Context(), &providers.Request{Analysis: &protocol.Request{Code: "x"}, Model: model, Prompt: "?"})
	if err != nil {
		return "", err
	}
	a, err := providertest.Collect(s)
	return a.Text, err
}

func TestAServerThatTheConfigurationOnlyLocatesIsAskedForAModelThatItHas(t *testing.T) {
	for name, variable := range map[string]string{"openai": "OPENAI_BASE_URL", "claude": "ANTHROPIC_BASE_URL", "deepseek": "DEEPSEEK_BASE_URL"} {
		t.Run(name, func(t *testing.T) {
			up := knowing(t, "nomic-embed-text", "m1")
			s := serve(t, []string{variable + "=" + up.URL})
			if r := s.do("GET", "/v1/providers", ""); !strings.Contains(r.body, `"models":["m1","nomic-embed-text"]`) {
				t.Errorf("the providers are %s", r.body)
			}
			tr := s.read(protocol.TransportSSE, s.begin())
			wantEnd(t, tr, protocol.TypeCompleted, `"model":"m1"`)
			if calls := up.Calls(); tr.Text() != "yes" || len(calls) != 1 || askedModel(calls[0]) != "m1" {
				t.Errorf("it says %q after %d calls", tr.Text(), len(calls))
			}
		})
	}
}

func TestAnalyzeAsksAServerForAModelThatItHas(t *testing.T) {
	up := knowing(t, "m1")
	i := invoke(t, false, []string{"OPENAI_BASE_URL=" + up.URL + "/v1"}, nil, "analyze", writeCode(t, smallFile))
	if code := i.wait(); code != exitOK || i.out.String() != "yes\n" {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, i.out, i.err)
	}
}

func TestModelsAreAskedForOnlyWhereTheyAreAGuess(t *testing.T) {
	up := knowing(t, "m1", "m2")
	for _, c := range []struct {
		entry string
		want  []string
	}{
		{"dialect: openai-chat, base_url: " + up.URL, []string{"m1", "m2"}},
		{"dialect: openai-responses, base_url: " + up.URL, []string{"m1", "m2"}},
		{"dialect: claude, base_url: " + up.URL, []string{"m1", "m2"}},
		{"dialect: deepseek, base_url: " + up.URL, []string{"m1", "m2"}},
		{"dialect: openai-chat, models: [m2], base_url: " + up.URL, []string{"m2"}},
	} {
		if p, _ := learned(t, c.entry); !slices.Equal(p.Features().Models, c.want) {
			t.Errorf("%s: the models are %q, want %q", c.entry, p.Features().Models, c.want)
		}
	}
	// Those of vendors are not called: learned would wait for them.
	for _, vendor := range []string{
		"openai, api_key: k", "deepseek, api_key: k", "claude, api_key: k", `openai, base_url: "https://eu.api.openai.com/v1"`,
		`openai, base_url: "https://me.openai.azure.com/openai/v1"`, `openai, base_url: "https://me.services.ai.azure.com/openai/v1"`,
		`claude, base_url: "https://api.anthropic.com/v1"`, `deepseek, base_url: "https://api.deepseek.com/beta"`, "local",
	} {
		if _, u, err := configured(t, "providers: {mine: {dialect: "+vendor+"}}\n"); err != nil || len(u.guesses) != 0 {
			t.Errorf("%s: %v is asked for, %v", vendor, u.guesses, err)
		}
	}
}

func TestAServerThatComesLaterIsAskedForItsModelThen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	p, log := learned(t, "dialect: openai-chat, base_url: \"http://"+address+"\"")
	if !slices.Equal(p.Features().Models, []string{anyModel}) || !strings.Contains(log.String(), `\"models\"`) {
		t.Errorf("the models are %q, the log %s", p.Features().Models, log)
	}
	_, err = says(t, p, anyModel)
	if e := protocol.AsError(err); e.Code != protocol.CodeConnectionFailed || !e.Retryable || e.Provider != "mine" ||
		!strings.Contains(e.Detail, "the configuration names none") {
		t.Errorf("a server that is away: %+v", e)
	}
	if err := p.(providers.HealthChecker).Health(t.Context()); err == nil {
		t.Error("a server that is away is healthy")
	}

	up := knowing(t, "m1")
	if ln, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: up, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	defer func() {
		if err := errors.Join(server.Close(), <-served); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	for range 2 {
		if text, err := says(t, p, anyModel); err != nil || text != "yes" {
			t.Errorf("a server that has come: %q, %v", text, err)
		}
	}
	if err := p.(providers.HealthChecker).Health(t.Context()); err != nil {
		t.Errorf("a server that has come: %v", err)
	}
	if n := strings.Count(log.String(), "lists its models now"); n != 1 {
		t.Errorf("the log tells it %d times: %s", n, log)
	}
}

func TestAServerWithoutModelsGetsAnErrorThatNamesTheSetting(t *testing.T) {
	up := knowing(t)
	p, log := learned(t, "dialect: openai-chat, base_url: "+up.URL)
	for _, err := range []error{p.(providers.HealthChecker).Health(t.Context()), func() error { _, err := says(t, p, anyModel); return err }()} {
		if e := protocol.AsError(err); e.Code != protocol.CodeServiceUnavailable || e.Retryable || e.Provider != "mine" ||
			e.Detail != `it lists no models; load one, or name its models with "models" in its entry of the configuration file` {
			t.Errorf("%+v", e)
		}
	}
	if up.Count() != 0 || !strings.Contains(log.String(), "it lists no models") {
		t.Errorf("%d calls, and the log %s", up.Count(), log)
	}
}

func TestAServerWithoutAListIsAskedForTheModelsOfItsDialect(t *testing.T) {
	up := knowing(t, "claude-opus-5-5")
	for _, c := range []struct {
		status       int
		body         string
		offers, asks string // the models
	}{
		{http.StatusNotFound, "", "gpt-6-astra", "gpt-6-astra"},
		{http.StatusOK, `{"object":"list","data":null}`, anyModel, "gpt-6-astra"}, // Ollama's, before the first pull
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/models") {
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body)) // the client is this test's
				return
			}
			up.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		p, log := learned(t, "dialect: openai-chat, base_url: "+server.URL)
		if got := p.Features().DefaultModel(); got != c.offers || !strings.Contains(log.String(), `name its models with \"models\"`) {
			t.Errorf("%d: it offers %q, and the log has %s", c.status, got, log)
		}
		_, err := says(t, p, c.offers)
		if e := protocol.AsError(err); e.Code != protocol.CodeInvalidRequest || !strings.Contains(e.Detail, `a model "`+c.asks+`"`) ||
			!strings.HasSuffix(e.Detail, `; it has no list of models: if it doesn't have this one, name its models with "models" in its entry of the configuration file`) {
			t.Errorf("%d: %+v", c.status, e)
		}
		if c.status != http.StatusNotFound {
			continue
		}
		// A proxy before the vendor.
		if p, _ := learned(t, "dialect: claude, base_url: "+server.URL); p.Features().DefaultModel() != "claude-opus-5-5" {
			t.Errorf("a proxy offers %q", p.Features().Models)
		} else if text, err := says(t, p, "claude-opus-5-5"); err != nil || text != "yes" {
			t.Errorf("a proxy: %q, %v", text, err)
		}
	}
}

func TestTheStartDoesNotWaitLongForModels(t *testing.T) {
	t.Parallel()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	began := time.Now()
	p, log := learned(t, "dialect: openai-chat, base_url: "+silent.URL)
	if took := time.Since(began); took < modelsTimeout || took > 3*modelsTimeout || !slices.Equal(p.Features().Models, []string{anyModel}) {
		t.Errorf("it took %v, the models are %q, the log %s", took, p.Features().Models, log)
	}
}

func TestTheBestModelForADefaultComesFirst(t *testing.T) {
	own := []string{"big", "small"}
	for _, c := range []struct{ listed, want string }{
		{"m2 m1", "m2 m1"},
		{"text-embedding-3 bge-m3 m1 Qwen-Embed m2", "m1 m2 text-embedding-3 bge-m3 Qwen-Embed"},
		{"nomic-embed-text", "nomic-embed-text"},
		{"other small whisper-1 big", "big small other whisper-1"},
		{"m1 m1  " + strings.Repeat("x", protocol.MaxNameBytes+1) + " a\x1bb \xff m2", "m1 m2"},
		{"", ""},
	} {
		if got := strings.Join(usableModels(strings.Split(c.listed, " "), own), " "); got != c.want {
			t.Errorf("%q: got %q, want %q", c.listed, got, c.want)
		}
	}
}

func TestOfAVeryLongListTheFirstAreOffered(t *testing.T) {
	up := providertest.NewUpstream(t, providertest.Script{})
	models := make([]string, maxListedModels+1)
	for i := range models {
		models[i] = fmt.Sprintf("m%d", i)
	}
	up.SetModels(models...)
	if p, log := learned(t, "dialect: openai, base_url: "+up.URL); !slices.Equal(p.Features().Models, models[:maxListedModels]) || !strings.Contains(log.String(), `"listed":101`) {
		t.Errorf("%q is offered, and the log has %s", p.Features().Models, log)
	}
}

func TestAVariableThatMeansNothingIsToldAtTheStart(t *testing.T) {
	s := serve(t, []string{"ATHENA_API_KEYS=0123456789abcdef-secret", "ATHENA_TOKEN=t"})
	log := s.process.log()
	if !strings.Contains(log, "the variable ATHENA_API_KEYS is not known, and changes nothing; was ATHENA_API_KEY meant?") ||
		strings.Contains(log, "secret") || strings.Contains(log, "ATHENA_TOKEN") || strings.Contains(log, serveVariable) {
		t.Error(log)
	}
}
