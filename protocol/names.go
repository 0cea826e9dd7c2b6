package protocol

import (
	"iter"
	"reflect"
	"strings"

	"github.com/tidwall/gjson"
)

// fieldNames yields the names that t's fields have in JSON, and their types.
func fieldNames(t reflect.Type) iter.Seq2[string, reflect.Type] {
	return func(yield func(string, reflect.Type) bool) {
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				continue
			}
			ft := f.Type
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			if !yield(name, ft) {
				return
			}
		}
	}
}

func fieldType(t reflect.Type, name string) (reflect.Type, bool) {
	for n, ft := range fieldNames(t) {
		if n == name {
			return ft, true
		}
	}
	return nil, false
}

// dropMisnamed returns the JSON object b without the fields that encoding/json
// would take for one of t's though their case differs. They are fields that
// this version doesn't know, and a client in another language ignores them.
func dropMisnamed(b []byte, t reflect.Type) []byte {
	root := gjson.ParseBytes(b)
	if t.Kind() != reflect.Struct || !root.IsObject() || !hasMisnamed(root, t) {
		return b
	}
	out := []byte{'{'}
	root.ForEach(func(k, v gjson.Result) bool {
		ft, ok := fieldType(t, k.Str)
		if !ok {
			return true // unknown; encoding/json would drop it too
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, k.Raw...)
		out = append(out, ':')
		out = append(out, dropMisnamed([]byte(v.Raw), ft)...)
		return true
	})
	return append(out, '}')
}

func hasMisnamed(v gjson.Result, t reflect.Type) bool {
	found := false
	v.ForEach(func(k, v gjson.Result) bool {
		ft, ok := fieldType(t, k.Str)
		if !ok {
			for n := range fieldNames(t) {
				found = found || strings.EqualFold(n, k.Str)
			}
		} else if ft.Kind() == reflect.Struct && v.IsObject() {
			found = hasMisnamed(v, ft)
		}
		return !found
	})
	return found
}
