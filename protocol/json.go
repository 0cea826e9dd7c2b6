package protocol

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// marshal is json.Marshal without the escapes for HTML.
func marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// unmarshalStrict stores the one JSON object in b in the value that v points
// to. Unknown and repeated fields, wrong types and anything after the object
// are an invalid_request that says what was wrong, in words of the wire rather
// than of Go. Unlike encoding/json it takes a field only under its exact name,
// so that no other implementation reads the same bytes differently.
func unmarshalStrict(b []byte, what string, v any) error {
	if !utf8.Valid(b) {
		return Errorf(CodeInvalidRequest, "the %s is not UTF-8", what)
	}
	var raw json.RawMessage
	dec := json.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&raw); err != nil {
		if e, ok := errors.AsType[*json.SyntaxError](err); ok {
			return Errorf(CodeInvalidRequest, "the %s is not valid JSON: %s at byte %d", what, e.Error(), e.Offset)
		}
		return Errorf(CodeInvalidRequest, "the %s ends before its JSON object does", what)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Errorf(CodeInvalidRequest, "the %s has something after its JSON object", what)
	}
	root := gjson.ParseBytes(raw)
	if !root.IsObject() {
		return Errorf(CodeInvalidRequest, "the %s is %s; it must be a JSON object", what, jsonKind(root))
	}
	if err := checkFields(root, reflect.TypeOf(v).Elem(), "", what); err != nil {
		return err
	}
	err := json.Unmarshal(raw, v)
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		code := CodeInvalidRequest
		if e.Field == "after" {
			code = CodeInvalidCursor
		}
		// For a number that doesn't fit, Value is the number too.
		value := strings.TrimPrefix(e.Value, "number ")
		return Errorf(code, "field %q of the %s is %.40s; it must be %s", e.Field, what, withArticle(value), wanted(e.Type))
	}
	return Errorf(CodeInvalidRequest, "the %s is not valid: %w", what, err)
}

// checkFields checks that every field of v is one of t's, stands there once,
// and can be read where it has a form of its own.
func checkFields(v gjson.Result, t reflect.Type, path, what string) error {
	var seen []string
	var err error
	v.ForEach(func(k, v gjson.Result) bool {
		name := k.Str
		ft, ok := fieldType(t, name)
		switch {
		case !ok:
			err = Errorf(CodeInvalidRequest, "the %s has an unknown field %.60q; %s", what, path+name, known(t, name, path))
		case slices.Contains(seen, name):
			err = Errorf(CodeInvalidRequest, "field %q stands in the %s twice", path+name, what)
		case v.IsObject() && ft.Kind() == reflect.Struct:
			err = checkFields(v, ft, path+name+".", what)
		case reflect.PointerTo(ft).Implements(reflect.TypeFor[json.Unmarshaler]()):
			if e := json.Unmarshal([]byte(v.Raw), reflect.New(ft).Interface()); e != nil {
				err = Errorf(CodeInvalidRequest, "field %q of the %s: %s", path+name, what, AsError(e).Detail)
			}
		}
		seen = append(seen, name)
		return err == nil
	})
	return err
}

// known says which fields t has, or which of them was meant by name.
func known(t reflect.Type, name, path string) string {
	var names []string
	for n := range fieldNames(t) {
		if strings.EqualFold(n, name) {
			return `it is written "` + path + n + `"`
		}
		names = append(names, n)
	}
	return "known are " + strings.Join(names, ", ")
}

// jsonKind says what v is.
func jsonKind(v gjson.Result) string {
	switch {
	case v.IsObject():
		return "an object"
	case v.IsArray():
		return "an array"
	case v.IsBool():
		return "true or false"
	}
	return withArticle(strings.ToLower(v.Type.String()))
}

// withArticle names what json.UnmarshalTypeError.Value holds, a kind of JSON
// value or a number, as part of a sentence.
func withArticle(kind string) string {
	switch kind {
	case "string", "number":
		return "a " + kind
	case "object", "array":
		return "an " + kind
	case "bool":
		return "true or false"
	}
	return kind
}

// wanted says what a value for a field of type t must be.
func wanted(t reflect.Type) string {
	if t.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
		return "a string"
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		return "a whole number from 0 on"
	}
	return "a number"
}
