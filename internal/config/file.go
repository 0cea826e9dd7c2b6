package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds the configuration file and the file of keys.
const maxFileBytes = 1 << 20

// A file is what a configuration file says.
type file struct {
	path      string
	settings  map[string]setting
	providers []entry
	refused   map[string]bool // the keys of settings that could not be read
}

// A setting is one key's value: a string, or a []any of strings.
type setting struct {
	value any
	line  int
}

// readFile reads a file whose keys, apart from providers, are known.
func readFile(path string, known map[string]bool) (file, error) {
	b, err := readBounded(path)
	if err != nil {
		return file{}, fmt.Errorf("read configuration: %w", err)
	}
	return parseFile(path, b, known)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	b, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("%s has more than the limit of %s", path, Bytes(maxFileBytes))
	}
	return b, nil
}

// parseFile decodes by hand, from yaml's nodes, since every mistake should be
// told with its line and key, and all at once.
func parseFile(path string, b []byte, known map[string]bool) (file, error) {
	p := parser{file: file{path: path, settings: make(map[string]setting), refused: make(map[string]bool)}}
	dec := yaml.NewDecoder(strings.NewReader(string(b)))
	var doc, second yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF): // empty
		return p.file, nil
	case err != nil:
		return file{}, fmt.Errorf("%s: %w", path, err)
	}
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return file{}, fmt.Errorf("%s: has something after its first YAML document", path)
	}
	p.mapping(doc.Content[0], "", func(key string, k, v *yaml.Node) {
		switch {
		case key == "providers":
			p.mapping(v, "providers.", func(name string, k, v *yaml.Node) { p.provider(name, k, v) })
		case (key == "recovery" || key == "limit_tenant") && v.Kind == yaml.MappingNode:
			var pairs []any
			p.mapping(v, key+".", func(name string, _, v *yaml.Node) {
				if s := p.text(key+"."+name, v); s != nil {
					pairs = append(pairs, name+"="+*s)
				}
			})
			p.file.settings[key] = setting{pairs, v.Line}
		case known[key]:
			if value := p.value(key, v); value != nil {
				p.file.settings[key] = setting{value, v.Line}
			}
		case known[fileKey(strings.ToLower(key))]:
			p.fail(k, key, "is not known; it is written %q", fileKey(strings.ToLower(key)))
		default:
			p.fail(k, key, "is not known")
		}
	})
	return p.file, errors.Join(p.problems...)
}

// A parser collects what is wrong with a file.
type parser struct {
	file     file
	problems []error
}

func (p *parser) fail(n *yaml.Node, key, format string, args ...any) {
	setting, _, _ := strings.Cut(key, ".")
	p.file.refused[fileKey(strings.ToLower(setting))] = true
	p.problems = append(p.problems, fmt.Errorf("%s, line %d, key %s: %s", p.file.path, n.Line, key, fmt.Sprintf(format, args...)))
}

// mapping calls each for every key of n, whose path begins with prefix.
func (p *parser) mapping(n *yaml.Node, prefix string, each func(key string, k, v *yaml.Node)) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		key := strings.TrimSuffix(prefix, ".")
		if key == "" {
			key = "(the whole file)"
		}
		p.fail(n, key, "must be a map of keys to values")
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), resolve(n.Content[i+1])
		if k.Kind != yaml.ScalarNode {
			p.fail(k, prefix+"?", "a key must be plain text")
			continue
		}
		if seen[k.Value] {
			p.fail(k, prefix+k.Value, "stands there twice")
			continue
		}
		seen[k.Value] = true
		each(k.Value, k, v)
	}
}

// resolve follows an alias, which never leads to another one.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

// value returns a scalar as text, a list as a []any of texts, and nil for
// nothing and for what was refused.
func (p *parser) value(key string, n *yaml.Node) any {
	switch {
	case isNull(n):
		return nil
	case n.Kind == yaml.ScalarNode:
		return n.Value
	case n.Kind == yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, c := range n.Content {
			if c = resolve(c); c.Kind != yaml.ScalarNode {
				p.fail(c, key, "its items must be plain values")
				return nil
			}
			list = append(list, c.Value)
		}
		return list
	}
	p.fail(n, key, "must be a plain value or a list of them")
	return nil
}

func (p *parser) text(key string, n *yaml.Node) *string {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.ScalarNode {
		p.fail(n, key, "must be text")
		return nil
	}
	return &n.Value
}
