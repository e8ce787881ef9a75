{% macro generate_schema_name(custom_schema_name, node) -%}
  {#- Use the models' schema name as it is, without the profile's schema as prefix. -#}
  {{ custom_schema_name or target.schema }}
{%- endmacro %}
