package config

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// An entry is one provider's entry in the file. Fields that are nil were not
// given.
type entry struct {
	name string
	line int
	// faulty: what it lacks may be what was refused.
	faulty bool

	dialect, baseURL, apiKey, apiKeyEnv *string
	apiKeyFile                          *string
	keys                                []entryKey
	headers                             map[string]Secret
	models                              []Model
	priority, weight                    *int64

	protocol   *string
	background *bool
	features   Features

	requests, tokens, concurrency, queue             *int64
	hedgeAfter                                       *time.Duration
	connect, headersWithin, firstContent, idleWithin *time.Duration
	minRate                                          *Bytes

	maxConnections, idleConnections *int64
	connectionIdle                  *time.Duration
	http2                           *bool
}

var (
	providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	envName      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// The bounds of numbers in entries.
const (
	maxPriority    = 1 << 30
	maxWeight      = 1e6
	maxPerMinute   = int64(1e15)
	maxConcurrency = 1e5
	maxQueue       = 1e6
	maxTokens      = 1e9
	maxPrice       = 1e6
	minDeadline    = 100 * time.Millisecond
	maxDeadline    = time.Hour
	maxMinRate     = Bytes(1 << 20)
)

// off is the text for a duration that turns something off.
const off = "off"

// fields is how the keys of one map are read. Each gets the key's whole path.
type fields map[string]func(key string, v *yaml.Node)

// provider reads one provider's entry.
func (p *parser) provider(name string, k, v *yaml.Node) {
	path := "providers." + name
	if !providerName.MatchString(name) || name == "auto" {
		p.fail(k, path, `a provider's name is lower-case letters, digits, ".", "_" and "-", and not "auto"`)
		return
	}
	e := entry{name: name, line: k.Line}
	before := len(p.problems)
	p.fields(path, v, []string{
		"dialect", "base_url", "api_key", "api_key_env", "api_key_file", "keys", "headers", "models", "priority", "weight", "protocol", "background",
		"features", "limits", "hedge_after", "timeouts", "min_rate", "connections",
	}, fields{
		"dialect":  into(p.text, &e.dialect),
		"base_url": into(p.text, &e.baseURL),
		"api_key":  into(p.text, &e.apiKey),
		"api_key_env": func(key string, v *yaml.Node) {
			if e.apiKeyEnv = p.text(key, v); e.apiKeyEnv != nil && !envName.MatchString(*e.apiKeyEnv) {
				// Not repeated: it may be the key itself, put here by mistake.
				p.fail(v, key, "must be the name of a variable")
				e.apiKeyEnv = nil
			}
		},
		"api_key_file": into(p.text, &e.apiKeyFile),
		"keys":         func(key string, v *yaml.Node) { e.keys = p.keys(key, v) },
		"headers": func(key string, v *yaml.Node) {
			e.headers = make(map[string]Secret)
			p.mapping(v, key+".", func(name string, _, v *yaml.Node) {
				if s := p.text(key+"."+name, v); s != nil {
					e.headers[name] = Secret(*s)
				}
			})
		},
		"models":     func(key string, v *yaml.Node) { e.models = p.models(key, v) },
		"priority":   p.whole(&e.priority, -maxPriority, maxPriority),
		"weight":     p.whole(&e.weight, 1, maxWeight),
		"protocol":   p.word(&e.protocol, "auto", "websocket", "sse", "polling"),
		"background": p.truth(&e.background),
		"features": func(key string, v *yaml.Node) {
			p.fields(key, v, []string{"streaming", "batching", "function_calling", "prefill"}, fields{
				"streaming":        p.truth(&e.features.Streaming),
				"batching":         p.truth(&e.features.Batching),
				"function_calling": p.truth(&e.features.FunctionCalling),
				"prefill":          p.truth(&e.features.Prefill),
			})
		},
		"limits": func(key string, v *yaml.Node) {
			p.fields(key, v, []string{"requests_per_minute", "tokens_per_minute", "concurrency", "queue"}, fields{
				"requests_per_minute": p.whole(&e.requests, 0, maxPerMinute),
				"tokens_per_minute":   p.whole(&e.tokens, 0, maxPerMinute),
				"concurrency":         p.whole(&e.concurrency, 1, maxConcurrency),
				"queue":               p.whole(&e.queue, 0, maxQueue),
			})
		},
		"hedge_after": func(key string, v *yaml.Node) {
			if v.Kind == yaml.ScalarNode && v.Value == off {
				e.hedgeAfter = new(time.Duration)
				return
			}
			p.duration(&e.hedgeAfter, 0)(key, v)
		},
		"timeouts": func(key string, v *yaml.Node) {
			p.fields(key, v, []string{"connect", "headers", "first_content", "idle"}, fields{
				"connect":       p.duration(&e.connect, minDeadline),
				"headers":       p.duration(&e.headersWithin, minDeadline),
				"first_content": p.duration(&e.firstContent, minDeadline),
				"idle":          p.duration(&e.idleWithin, minDeadline),
			})
		},
		"min_rate": func(key string, v *yaml.Node) { e.minRate = p.size(key, v, maxMinRate) },
		"connections": func(key string, v *yaml.Node) {
			p.fields(key, v, []string{"max", "idle", "idle_timeout", "http2"}, fields{
				"max":          p.whole(&e.maxConnections, 1, maxConcurrency),
				"idle":         p.whole(&e.idleConnections, 0, maxConcurrency),
				"idle_timeout": p.duration(&e.connectionIdle, time.Second),
				"http2":        p.truth(&e.http2),
			})
		},
	})
	if e.apiKey != nil && e.apiKeyEnv != nil {
		p.fail(k, path, "has both api_key and api_key_env; one of them is enough")
	}
	e.faulty = len(p.problems) > before
	p.file.providers = append(p.file.providers, e)
}

// fields reads a map whose keys are known; order is that in which a mistake
// lists them.
func (p *parser) fields(path string, n *yaml.Node, order []string, read fields) {
	p.mapping(n, path+".", func(key string, k, v *yaml.Node) {
		full := path + "." + key
		if f, ok := read[key]; !ok {
			p.fail(k, full, "is not known; known are %s", strings.Join(order, ", "))
		} else if !isNull(v) {
			f(full, v)
		}
	})
}

// into makes a reader keep what it reads.
func into[T any](read func(string, *yaml.Node) T, to *T) func(string, *yaml.Node) {
	return func(key string, v *yaml.Node) { *to = read(key, v) }
}

// whole reads a whole number from least to most.
func (p *parser) whole(to **int64, least, most int64) func(string, *yaml.Node) {
	return func(key string, v *yaml.Node) {
		n, err := strconv.ParseInt(v.Value, 0, 64) // yaml's own reading cuts fractions off
		switch {
		case err != nil: // a map's and a list's Value is ""
			p.fail(v, key, "must be a whole number")
		case n < least || n > most:
			p.fail(v, key, "is %d; it must be from %d to %d", n, least, most)
		default:
			*to = &n
		}
	}
}

func (p *parser) truth(to **bool) func(string, *yaml.Node) {
	return func(key string, v *yaml.Node) {
		var b bool
		if v.Decode(&b) != nil {
			p.fail(v, key, "must be true or false")
			return
		}
		*to = &b
	}
}

// word reads one of words.
func (p *parser) word(to **string, words ...string) func(string, *yaml.Node) {
	return func(key string, v *yaml.Node) {
		if v.Kind != yaml.ScalarNode || !slices.Contains(words, v.Value) {
			p.fail(v, key, "must be one of %s", strings.Join(words, ", "))
			return
		}
		*to = &v.Value
	}
}

// duration reads one from least to maxDeadline.
func (p *parser) duration(to **time.Duration, least time.Duration) func(string, *yaml.Node) {
	return func(key string, v *yaml.Node) {
		d, err := time.ParseDuration(v.Value)
		switch {
		case err != nil: // a map's and a list's Value is ""
			p.fail(v, key, "must be a duration with its unit, such as 250ms, 8s or 2m")
		case d < least || d > maxDeadline:
			p.fail(v, key, "is %s; it must be from %s to %s", d, least, maxDeadline)
		default:
			*to = &d
		}
	}
}

func (p *parser) size(key string, v *yaml.Node, most Bytes) *Bytes {
	var b Bytes
	if err := b.UnmarshalText([]byte(v.Value)); err != nil {
		p.fail(v, key, "%s", err)
	} else if b > most {
		p.fail(v, key, "is %s; it must be from 0 to %s", b, most)
	} else {
		return &b
	}
	return nil
}

// price reads an amount of money.
func (p *parser) price(to *float64) func(string, *yaml.Node) {
	return func(key string, v *yaml.Node) {
		f, err := strconv.ParseFloat(v.Value, 64)
		if err != nil || math.IsNaN(f) || f < 0 || f > maxPrice {
			p.fail(v, key, "must be US dollars per million tokens, from 0 to %g", maxPrice)
			return
		}
		*to = f
	}
}

// models reads a list of models, each an id or a map, or one of them alone.
func (p *parser) models(key string, v *yaml.Node) []Model {
	items := []*yaml.Node{v}
	if v.Kind == yaml.SequenceNode {
		items = v.Content
	}
	var models []Model
	for i, item := range items {
		at := key
		if v.Kind == yaml.SequenceNode {
			at = fmt.Sprintf("%s[%d]", key, i)
		}
		item = resolve(item)
		var m Model
		switch item.Kind {
		case yaml.ScalarNode:
			m.ID = item.Value
		case yaml.MappingNode:
			m = p.model(at, item)
		default:
			p.fail(item, at, "must be a model's id, or a map with id in it")
			continue
		}
		switch {
		case m.ID == "" || isNull(item):
			p.fail(item, at, "has no id")
		case slices.ContainsFunc(models, func(o Model) bool { return o.ID == m.ID }):
			p.fail(item, at, "has the id %.80q of another", m.ID)
		default:
			models = append(models, m)
		}
	}
	return models
}

func (p *parser) model(path string, n *yaml.Node) (m Model) {
	var id *string
	var window, output *int64
	p.fields(path, n, []string{"id", "context_tokens", "max_output_tokens", "price"}, fields{
		"id":                into(p.text, &id),
		"context_tokens":    p.whole(&window, 1, maxTokens),
		"max_output_tokens": p.whole(&output, 1, maxTokens),
		"price": func(key string, v *yaml.Node) {
			p.fields(key, v, []string{"input", "output", "cached_input"}, fields{
				"input":        p.price(&m.Price.Input),
				"output":       p.price(&m.Price.Output),
				"cached_input": p.price(&m.Price.CachedInput),
			})
		},
	})
	if id != nil {
		m.ID = *id
	}
	if window != nil {
		m.ContextTokens = int(*window)
	}
	if output != nil {
		m.MaxOutputTokens = int(*output)
	}
	if window != nil && output != nil && *output > *window {
		p.fail(n, path, "max_output_tokens is more than context_tokens, which the answer is a part of")
	}
	return m
}
